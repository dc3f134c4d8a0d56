"""BuildKit's door: its control and gateway services on `/grpc`, and the client's services on `/session`."""
