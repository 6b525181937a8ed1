"""The distributed engine (etcd): a bulletin board that every member reads and writes, and that nobody believes."""
