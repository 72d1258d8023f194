"""One prepared run on a machine with a GPU: what holds on stand-ins is to hold there too."""
