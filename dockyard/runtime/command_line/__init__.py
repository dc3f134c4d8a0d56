"""`dockyard-runc`: the command line that engines know from runc."""
