"""The pages of the LocalRoot service, for people: accounts, servers, keys, configurations, and how they fare."""
