"""Zones out: transfers to permitted peers, and NOTIFY to them."""
