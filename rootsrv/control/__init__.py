"""The roles' sockets: how they are asked."""
