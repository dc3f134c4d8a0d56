"""The template language of Go, in which users of Docker say how something is to be shown."""
