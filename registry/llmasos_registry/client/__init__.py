"""The client of the registry: resolve, lock, verify, install, publish. Needs none of the server's packages."""
