"""`dockyard compose`, which is also `dockyard-compose` and answers to `docker-compose` and as docker's plugin."""
