"""The content store: blobs by sha256, git objects, and the chores that keep them true."""
