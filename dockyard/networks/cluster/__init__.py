"""What hosts that share networks tell each other."""
