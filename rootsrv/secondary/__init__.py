"""Our side of the primaries: transfers, NOTIFY, switchover, the zone store."""
