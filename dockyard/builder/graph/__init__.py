"""A build as a graph of steps: vertices, what they are made of, and their solving, side by side where they can be."""
