"""DNS messages as octets: names, RDATA, serials, EDNS, TSIG."""
