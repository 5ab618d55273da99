"""Distance on one machine: what lies between peers that are far apart, pretended between processes beside each other."""
