/* Rate limits, cell for cell as rootsrv/admission/limits.py, which has the theory. */

#define QUERIES_KIND 0
#define NXDOMAIN 3

static __always_inline uint64_t *cell_of(uint32_t number)
{
	return bpf_map_lookup_elem(&limit_cells, &number);
}

static __always_inline uint64_t hash_of_ipv4(uint32_t prefix, uint64_t size)
{
	struct sip_state state = sip_start(admission.hash_key);

	sip_take(&state, prefix | size << 32 | (uint64_t)QUERIES_KIND << 40 | 7ULL << 56);
	return sip_end(&state);
}

static __always_inline uint64_t hash_of_ipv6(uint64_t prefix, uint64_t size)
{
	struct sip_state state = sip_start(admission.hash_key);

	sip_take(&state, prefix);
	sip_take(&state, size | (uint64_t)QUERIES_KIND << 8 | 10ULL << 56);
	return sip_end(&state);
}

static __always_inline void set_cells(struct scratch *s, uint32_t level, uint64_t hash)
{
	uint32_t first = hash & (LIMIT_ROW_CELLS - 1), second = LIMIT_ROW_CELLS + (hash >> 32 & (LIMIT_ROW_CELLS - 1));

	s->cells[2 * level] = first;
	s->cells[2 * level + 1] = second;
	const void *cell = cell_of(first);
	if (cell)
		fetch(cell);
	cell = cell_of(second);
	if (cell)
		fetch(cell);
}

/* The hash of a prefix, from that of the one around it and the bits between the two. */
static __always_inline uint64_t narrowed(uint64_t hash, uint64_t bits)
{
	hash = (hash ^ (bits + 1) * 0x9e3779b97f4a7c15) * 0xd6e8feb86659fd93;
	return hash ^ hash >> 32;
}

/* Which cells the source's prefixes have; they are on their way into the cache while the query is read. */
STEP find_cells(struct scratch *s)
{
	if (!s)
		return 0;
	uint64_t source = s->source[0], hash, second, third, fourth;
	if (s->family == IPV4) {
		hash = hash_of_ipv4(source & 0x00c0ffff, 18);
		second = source >> 20 & 3;
		third = source >> 16 & 15;
		fourth = source >> 24 & 255;
	} else {
		hash = hash_of_ipv6(source & 0xffffffff, 32);
		second = source >> 32 & 0xffff;
		third = source >> 48 & 255;
		fourth = source >> 56;
	}
	set_cells(s, 3, hash);
	hash = narrowed(hash, second);
	set_cells(s, 2, hash);
	hash = narrowed(hash, third);
	set_cells(s, 1, hash);
	set_cells(s, 0, narrowed(hash, fourth));
	return 0;
}

/* What the query costs, by its response. */
static __always_inline uint64_t units_of(const struct scratch *s)
{
	if (s->response_size >= LIMIT_LARGE || (s->labels == 0 && s->qtype == TYPE_DNSKEY))
		return 4;
	return (s->rcode & 0xf) == NXDOMAIN ? 2 : 1;
}

/* A cell's time; one that nobody can have earned is set back. */
static __always_inline uint64_t read_cell(uint32_t number, uint64_t limit)
{
	uint64_t *cell = cell_of(number);
	if (!cell)
		return 0;
	uint64_t seen = READ_ONCE(*cell);
	if (seen <= limit)
		return seen;
	__sync_val_compare_and_swap(cell, seen, limit);
	return limit;
}

/* Raises a cell; if another CPU was faster, one charge is forgotten. */
static __always_inline void raise_cell(uint32_t number, uint64_t seen, uint64_t next)
{
	uint64_t *cell = seen < next ? cell_of(number) : 0;

	if (cell)
		__sync_val_compare_and_swap(cell, seen, next);
}

/* Whether the source is over its rate; charges it if not. */
STEP is_over(struct scratch *s)
{
	if (!s)
		return 0;
	uint64_t now = s->judged_at, limit = now + admission.burst, units = units_of(s), family = s->family;
	int over = 0;

	BOUND(family, 1);
	for (uint32_t level = 0; level < LIMIT_LEVELS; level++) {
		uint64_t one = read_cell(s->cells[2 * level], limit);
		uint64_t other = read_cell(s->cells[2 * level + 1], limit);
		uint64_t tat = one < other ? one : other;
		if (tat < now)
			tat = now;
		tat += units * admission.intervals[family][level];
		if (tat > limit)
			over = 1;
		s->cells_seen[2 * level] = one;
		s->cells_seen[2 * level + 1] = other;
		s->cells_next[level] = tat;
	}
	if (over)
		return 1;
	for (uint32_t level = 0; level < LIMIT_LEVELS; level++) {
		raise_cell(s->cells[2 * level], s->cells_seen[2 * level], s->cells_next[level]);
		raise_cell(s->cells[2 * level + 1], s->cells_seen[2 * level + 1], s->cells_next[level]);
	}
	return 0;
}
