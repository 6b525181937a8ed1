/* Unique sources: octet for octet the registers of rootsrv/page/unique_sources.py.
 *
 * Theory: which register a source has is as good as random, so that it is seldom in the cache.  So it is fetched when the answer
 * was found, and something else would have to wait for memory as well, and raised when the response has been sent.
 */

enum estimate { SOURCES_IPV4, SOURCES_IPV6, SOURCES_AGGREGATED };

/* The register that a source with this hash has; 0: cannot happen. */
static __always_inline uint8_t *register_of(uint32_t estimate, uint64_t hash)
{
	uint32_t key = (control.day & 1) * REGISTER_SETS + estimate;
	struct registers *registers = bpf_map_lookup_elem(&unique_sources, &key);

	return registers ? &registers->values[hash >> 50] : 0;
}

static __always_inline void fetch_register(uint32_t estimate, uint64_t hash)
{
	const uint8_t *place = register_of(estimate, hash);

	if (place)
		fetch(place);
}

/* rootsrv/page/unique_sources.py says why it is these steps. */
static __always_inline uint64_t mixed(uint64_t word)
{
	word *= 0x9e3779b97f4a7c15;
	word ^= word >> 32;
	word += control.sources_key[1];
	word *= 0xd6e8feb86659fd93;
	word ^= word >> 32;
	return word * 0xff51afd7ed558ccd;
}

/* The address, and of an IPv6 address also its first half. */
static __always_inline void hash_source(struct scratch *s)
{
	uint64_t first = s->source[0] ^ control.sources_key[0];

	s->source_hash = mixed(first);
	if (s->family == IPV4) {
		fetch_register(SOURCES_IPV4, s->source_hash);
		return;
	}
	s->aggregate_hash = s->source_hash;
	fetch_register(SOURCES_AGGREGATED, s->aggregate_hash);
	s->source_hash = mixed(s->source[1] ^ s->aggregate_hash);
	fetch_register(SOURCES_IPV6, s->source_hash);
}

static __always_inline void note_source(uint32_t estimate, uint64_t hash)
{
	uint8_t *place = register_of(estimate, hash);

	if (!place)
		return;
	/* The rank is 1 + the number of leading zeros among the lower 50 bits, at most 51; only a higher one is kept. */
	uint64_t rest = hash & 0x3ffffffffffff;
	uint32_t kept = *place;
	if (kept > 50 || rest >> (50 - kept)) /* most often: no higher than before */
		return;
	uint8_t rank = 51;
	if (rest >> 32) { rank -= 32; rest >>= 32; }
	if (rest >> 16) { rank -= 16; rest >>= 16; }
	if (rest >> 8) { rank -= 8; rest >>= 8; }
	if (rest >> 4) { rank -= 4; rest >>= 4; }
	if (rest >> 2) { rank -= 2; rest >>= 2; }
	if (rest >> 1) { rank -= 1; rest >>= 1; }
	*place = rank - rest;
}

/* Counts the source whose hash was made. */
static __always_inline void count_source(struct scratch *s)
{
	if (s->family == IPV4) {
		note_source(SOURCES_IPV4, s->source_hash);
		return;
	}
	note_source(SOURCES_AGGREGATED, s->aggregate_hash);
	note_source(SOURCES_IPV6, s->source_hash);
}
