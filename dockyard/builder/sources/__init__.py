"""Where files of a build come from: the client's directories, images, git repositories, URLs."""
