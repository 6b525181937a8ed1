/* The body of the response: up to three pieces of the table (rootsrv/answer/table.py says why), one behind the other.
 *
 * Theory: nearly all pieces are shorter than a kilobyte, and from a table that is larger than the cache.  Loads and stores
 * of our own take 64 octets at a time and go on while memory is waited for; the helper, called once for each piece, was
 * measured to take some 35 ns more on octets that are in the cache, and more than that on others.
 */

#define COPIED_HERE 1024 /* octets: longer pieces are the helper's */

/* Of each of the answer's pieces as much as a body of *left* octets has. */
static __always_inline void take_pieces(struct scratch *s, const struct table_answer *answer, uint32_t left)
{
	uint32_t first = answer->first_size, own = answer->body_size - first - answer->last_size;

	first = first < left ? first : left;
	left -= first;
	own = own < left ? own : left;
	s->first.at = answer->first_at;
	s->first.size = first;
	s->own.at = answer->own_at;
	s->own.size = own;
	s->last.at = answer->last_at;
	s->last.size = left - own;
}

/* Keeps the compiler from counting everything from the beginning, for which it has no registers. */
#define ADVANCE(pointer, octets)                                                                                       \
	do {                                                                                                           \
		pointer += (octets);                                                                                   \
		asm volatile("" : "+r"(pointer));                                                                      \
	} while (0)

static __always_inline int copy_block(uint8_t *to, void *data_end, const uint8_t *from)
{
	if ((void *)(to + COPIED_AT_ONCE) > data_end)
		return -1;
#pragma unroll
	for (uint32_t i = 0; i < COPIED_AT_ONCE; i += 8)
		*(uint64_t *)(to + i) = LOAD64(from + i);
	return 0;
}

/* COPIED_AT_ONCE to COPIED_HERE octets to *at* in the packet, block by block, the last block counted from the end. */
static __always_inline int copy_blocks(uint8_t *data, void *data_end, uint64_t at, const uint8_t *from, uint64_t size)
{
	uint64_t last = size - COPIED_AT_ONCE;

	BOUND(at, 8191);
	BOUND(last, COPIED_HERE - 1);
	uint8_t *to = data + at, *last_to = to + last;
	const uint8_t *last_from = from + last;
	for (uint32_t i = 0; i < COPIED_HERE; i += COPIED_AT_ONCE) {
		if (i >= last)
			break;
		if (copy_block(to, data_end, from))
			return -1;
		ADVANCE(to, COPIED_AT_ONCE);
		ADVANCE(from, COPIED_AT_ONCE);
	}
	return copy_block(last_to, data_end, last_from);
}

/* *size* octets that stand at *from* in the table, to octet *to* of the packet. */
static __always_inline int store_piece(void *ctx, enum hook hook, uint32_t to, const uint8_t *table, uint32_t from,
				       uint64_t size)
{
	if (!size)
		return 0;
	if (size >= COPIED_AT_ONCE && size <= COPIED_HERE)
		return copy_blocks(data_of(ctx, hook), end_of(ctx, hook), to, at(table, from), size);
	size--;
	BOUND(size, MAX_RESPONSE - 1);
	size++;
	return store(ctx, hook, to, at(table, from), size);
}

/* The body into the packet, which has its size; nonzero: cannot happen. */
static __always_inline int store_body(void *ctx, enum hook hook, struct scratch *s, const uint8_t *table, uint32_t to)
{
	uint32_t first = s->first.size, own = s->own.size;

	return store_piece(ctx, hook, to, table, s->first.at, first) ||
	       store_piece(ctx, hook, to + first, table, s->own.at, own) ||
	       store_piece(ctx, hook, to + first + own, table, s->last.at, s->last.size);
}
