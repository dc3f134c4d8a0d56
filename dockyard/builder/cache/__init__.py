"""What steps have made before: records by key, the layers they hold, and how they are given back."""
