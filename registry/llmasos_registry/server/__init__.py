"""The server of the registry: one ASGI application, several protocol faces over one content store."""
