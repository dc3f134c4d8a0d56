"""RUN: the containers of builds, what is mounted into them, and what must not stay of that."""
