"""A vantage point: any root server identity, seen from here as RSSAC047 measures it."""
