/* From the qname to the answer in the table (rootsrv/answer/table.py tells the layout). */

#define MAX_OWNERS 64
#define MAX_TYPES 64

/* ASCII letters to lower case, eight octets at a time. */
static __always_inline uint64_t lower_case(uint64_t word)
{
	uint64_t low_bits = word & 0x7f7f7f7f7f7f7f7f;
	uint64_t from_a = low_bits + 0x3f3f3f3f3f3f3f3f; /* bit 7: >= 'A' */
	uint64_t past_z = low_bits + 0x2525252525252525; /* bit 7: > 'Z' */
	uint64_t upper = (from_a ^ past_z) & ~word & 0x8080808080808080;

	return word | upper >> 2;
}

/* Octets *skip* … of the last label as a number whose order is that of the octets; there must be such octets. */
static __always_inline uint64_t label_word(const struct scratch *s, uint64_t skip, int64_t size)
{
	uint64_t word = LOAD64(message_at(s, (uint64_t)s->last_label_at + 1 + skip));

	return __builtin_bswap64(lower_case(first_octets(word, size - (int64_t)skip)));
}

enum order { SAME, NAME_BEFORE_LABEL, NAME_BEHIND_LABEL };

static __always_inline int compared(uint64_t name, uint64_t label)
{
	return name == label ? SAME : name < label ? NAME_BEFORE_LABEL : NAME_BEHIND_LABEL;
}

/* The last label next to name number *number*, whose first eight octets are the same.  Canonical order is the order of
 * (octets padded with zeros, length).
 */
STEP compare_rest(struct scratch *s, uint32_t number)
{
	if (!s)
		return NAME_BEHIND_LABEL;
	const uint8_t *table = table_of(s->generation);
	if (!table)
		return NAME_BEHIND_LABEL;
	const struct table_header *header = (const void *)table;
	const struct table_name *name = at(table, header->names_at + (uint64_t)number * sizeof(*name));
	const struct table_rest *rest = at(table, header->rests_at + (uint64_t)number * sizeof(*rest));
	uint32_t size = *message_at(s, s->last_label_at);

	for (uint32_t i = 0; i < 7; i++) {
		uint64_t ours = size > 8 + i * 8 ? label_word(s, 8 + i * 8, size) : 0;
		int order = compared(rest->words[i], ours);
		if (order != SAME)
			return order;
	}
	return compared(name->size, size);
}

/* Finds the last label among the names: the name itself, or the one before it, whose NSEC covers it. */
static __always_inline int find_name(struct scratch *s, const uint8_t *table)
{
	const struct table_header *header = (const void *)table;
	uint64_t names_at = header->names_at;
	uint32_t size = *message_at(s, s->last_label_at);
	uint64_t key = label_word(s, 0, size);

	if (key >> 32 == 0x5f74612d) /* "_ta-" */
		return PASS_TRUST_ANCHOR_SIGNAL;

	const uint8_t *index = at(table, header->index_at + (key >> 48) * 2);
	uint64_t low = LOAD16(index), high = LOAD16(index + 2);

	s->found = 0; /* in memory: a register would make as many paths of it as it has values */
	for (uint32_t i = 0; i < 17; i++) {
		if (low >= high)
			break;
		uint64_t middle = (low + high) >> 1;
		const struct table_name *name = at(table, names_at + middle * sizeof(*name));
		uint64_t theirs = name->key;
		int is_behind = theirs > key;
		if (theirs == key) {
			/* The rare case of long ones apart, for what a call costs. */
			int order = size <= 8 && name->size <= 8 ? compared(name->size, size) : compare_rest(s, middle);
			if (order == SAME)
				s->found = 1;
			is_behind = order == NAME_BEHIND_LABEL;
		}
		if (is_behind)
			high = middle;
		else
			low = middle + 1;
		BOUND(low, 0xffff); /* so that every turn looks alike to the verifier */
		BOUND(high, 0xffff);
	}
	if (low == 0)
		return PASS_TABLE; /* the root itself comes before every label */
	s->name = low - 1;
	return 0;
}

/* Whether the qname ends, at whatever octet, in the name of *size* octets that stands at *name_at* in the table. */
STEP ends_in(struct scratch *s, uint32_t name_at, uint32_t size)
{
	if (!s)
		return 0;
	const uint8_t *table = table_of(s->generation);
	if (!table)
		return 0;
	const uint8_t *name = at(table, name_at);
	uint64_t start = DNS_HEADER + (uint64_t)s->name_size - size;

	for (uint32_t i = 0; i < (MAX_NAME + 8) / 8; i++) {
		int64_t left = (int64_t)size - i * 8;
		if (left <= 0)
			break;
		uint64_t ours = lower_case(first_octets(LOAD64(message_at(s, start + i * 8)), left));
		if (ours != first_octets(LOAD64(name + i * 8), left))
			return 0;
	}
	return 1;
}

/* Whether a label of the qname starts at *offset*. */
static __always_inline int label_starts(const struct scratch *s, uint64_t offset)
{
	uint64_t label = DNS_HEADER;

	for (uint32_t i = 0; i < 128; i++) {
		if (label >= offset)
			break;
		label += *message_at(s, label) + 1;
	}
	return label == offset;
}

enum { IN_ROOT_ZONE, IN_HOST_ZONE };

/* Whether the qname is at or below the host zone. */
STEP place_in_host_zone(struct scratch *s)
{
	if (!s)
		return IN_ROOT_ZONE;
	const uint8_t *table = table_of(s->generation);
	if (!table)
		return IN_ROOT_ZONE;
	const struct table_header *header = (const void *)table;
	if (header->zone_count < 2)
		return IN_ROOT_ZONE;
	uint32_t zone_at = header->zones_at + sizeof(struct table_zone);
	uint32_t size = ((const struct table_zone *)at(table, zone_at))->name_size;

	if (s->name_size < size || !ends_in(s, zone_at + __builtin_offsetof(struct table_zone, name), size))
		return IN_ROOT_ZONE;
	return label_starts(s, DNS_HEADER + (uint64_t)s->name_size - size) ? IN_HOST_ZONE : IN_ROOT_ZONE;
}

/* The number of the owner that the qname is, else -1. */
STEP find_owner(struct scratch *s)
{
	if (!s)
		return -1;
	const uint8_t *table = table_of(s->generation);
	if (!table)
		return -1;
	const struct table_header *header = (const void *)table;
	uint32_t count = header->owner_count, owners_at = header->owners_at;
	uint64_t start = lower_case(first_octets(LOAD64(s->message + DNS_HEADER), s->name_size));

	for (uint32_t i = 0; i < MAX_OWNERS; i++) {
		if (i >= count)
			break;
		uint32_t owner_at = owners_at + i * sizeof(struct table_owner);
		const struct table_owner *owner = at(table, owner_at);
		/* Most differ in the first eight octets already; names are padded with zeros. */
		if (owner->size == s->name_size && LOAD64(owner->name) == start &&
		    ends_in(s, owner_at + __builtin_offsetof(struct table_owner, name), s->name_size))
			return i;
	}
	return -1;
}

/* The answer that owner number *number* has for the qtype. */
STEP answer_with_authority(struct scratch *s, uint32_t number)
{
	if (!s)
		return PASS_TABLE;
	const uint8_t *table = table_of(s->generation);
	if (!table)
		return PASS_TABLE;
	const struct table_header *header = (const void *)table;
	const struct table_owner *owner = at(table, header->owners_at + (uint64_t)number * sizeof(*owner));
	uint64_t types_at = owner->types_at;
	uint32_t count = owner->type_count;
	uint32_t which = s->do_flag != 0;
	uint64_t answer = which ? owner->nodata[1] : owner->nodata[0];

	if (count > MAX_TYPES)
		return PASS_TABLE;
	for (uint32_t i = 0; i < MAX_TYPES; i++) {
		if (i >= count)
			break;
		const struct table_type *type = at(table, types_at + i * sizeof(*type));
		if (type->type == s->qtype) {
			answer = which ? type->answer[1] : type->answer[0];
			break;
		}
	}
	s->answer_at = answer;
	return answer ? 0 : PASS_TABLE;
}

/* Which answer belongs to the query. */
static __always_inline int find_answer(struct scratch *s, const uint8_t *table)
{
	if (s->labels == 0)
		return answer_with_authority(s, 0);

	int reason = find_name(s, table);
	if (reason)
		return reason;
	PATHS_MEET();
	const struct table_header *header = (const void *)table;
	const struct table_name *name = at(table, header->names_at + (uint64_t)s->name * sizeof(*name));
	uint64_t answer;

	if (s->found) {
		if (name->flags & NAME_HAS_HOST_ZONE && place_in_host_zone(s) == IN_HOST_ZONE) {
			int owner = find_owner(s);
			/* Its apex's DS belongs to the parent's side; leave that to the Responder. */
			if (owner < 0 || s->qtype == TYPE_DS)
				return PASS_HOST_ZONE;
			return answer_with_authority(s, owner);
		}
		if (s->qtype == TYPE_DS && s->labels == 1)
			answer = s->do_flag ? name->ds[1] : name->ds[0];
		else
			answer = s->do_flag ? name->referral[1] : name->referral[0];
	} else if (s->do_flag) {
		answer = name->nxdomain;
	} else {
		const struct table_zone *zone = at(table, header->zones_at);
		answer = zone->nxdomain[0];
	}
	s->answer_at = answer;
	return answer ? 0 : PASS_TABLE;
}
