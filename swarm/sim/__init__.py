"""The stage: whole nodes on virtual time, with a fake network and directory and a toy model. One seed, one trace."""
