"""swarm: volunteers' machines together run language models that none of them could hold."""
