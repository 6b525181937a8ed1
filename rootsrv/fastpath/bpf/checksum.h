/* The Internet checksum (RFC 1071).
 *
 * Theory: sums are 64-bit numbers, made of little-endian words of 16 or 32 bits, and are folded once, at the end: all that
 * counts is what they are modulo 2^16 - 1.  The ones' complement sum does not care about byte order as long as a part that
 * starts at an odd offset is swapped (RFC 1071 section 2 (B)); that is to multiply it by 2^8.  No sum of a part exceeds
 * 2^40: a message has at most 128 words of 32 bits.  The body of a response is never summed: the table holds the sum of
 * every cut, and moving E pointers at even and O pointers at odd offsets by d adds E·d + O·swap(d).
 */

static __always_inline uint32_t fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Whether a sum that is not 0 folds to 0xffff, which says that a checksum is right: whether it is a multiple of 2^16 - 1.  A multiple
 * times the inverse of that modulo 2^64 is what it is a multiple by, and all else comes to more.
 */
static __always_inline int is_right_sum(uint64_t sum)
{
	return sum * 0xfffefffefffeffff <= 0x0001000100010001;
}

/* A part's sum for its place: below 2^48. */
static __always_inline uint64_t swapped_if_odd(uint64_t sum, uint64_t offset)
{
	return sum << (offset & 1) * 8; /* a branch would be guessed wrong half of the time */
}

/* The negative of a sum below 2^48 - 2^32. */
static __always_inline uint64_t negated(uint64_t sum)
{
	return (0xffffULL << 32) - sum;
}

static __always_inline uint64_t halves(uint64_t word)
{
	return (word & 0xffffffff) + (word >> 32);
}

#define SUMMED_AT_ONCE 64 /* octets: behind every message there are as many zeros in the scratch space */
#define OPT_SUMMED_AT_ONCE 40 /* octets: an OPT record with a COOKIE option has 39 at most, mostly */

/* Adds what stands at *data*.  One word after the other: clang would load all of them at first, and has no registers for them. */
static __always_inline uint64_t plus_word(uint64_t sum, const void *data)
{
	sum += LOAD32(data);
	asm volatile("" : "+r"(sum));
	return sum;
}

/* The sum of *size* octets at *data*, which are followed by zeros or by what does not belong to them. */
static __always_inline uint64_t sum_octets(const uint8_t *data, int64_t size, uint32_t most)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < most / 8; i++) {
		int64_t left = size - i * 8;
		if (left <= 0)
			break;
		sum += halves(first_octets(LOAD64(data + i * 8), left));
	}
	return sum;
}

/* The sum of *octets* octets at *data*, a constant number and a multiple of 4. */
static __always_inline uint64_t sum_words(const uint8_t *data, uint32_t octets)
{
	uint64_t sum = 0;

#pragma unroll
	for (uint32_t i = 0; i < octets; i += 4)
		sum = plus_word(sum, data + i);
	return sum;
}

/* For messages that are longer than most: the sums of the whole message behind its header, and of what is not question. */
STEP sum_long_message(struct scratch *s)
{
	if (!s)
		return 0;
	uint64_t size = s->size, end = s->question_end;

	BOUND(size, 1023);
	s->message_sum = sum_octets(s->message + DNS_HEADER, size - DNS_HEADER, MAX_QUERY);
	s->rest_sum = sum_octets(message_at(s, end), size - end, MAX_QUERY);
	return 0;
}

/* Verifies the query's UDP checksum (RFC 7720 section 2) and leaves the sum of the question section.
 *
 * On a link that never leaves this host the sender may have left the checksum to be finished by hardware that is not
 * there: the field then holds the sum of the pseudo-header alone (CHECKSUM_PARTIAL).
 */
static __always_inline int verify_checksum(struct scratch *s)
{
	uint64_t size = s->size, end = s->question_end;
	uint64_t message, rest;

	if (size <= DNS_HEADER + SUMMED_AT_ONCE && size - end <= OPT_SUMMED_AT_ONCE) {
		message = sum_words(s->message + DNS_HEADER, SUMMED_AT_ONCE);
		if (size - end == s->rest_summed)
			rest = s->rest_sum;
		else
			rest = sum_words(message_at(s, end), OPT_SUMMED_AT_ONCE); /* the question is what is not OPT */
	} else {
		sum_long_message(s);
		message = s->message_sum;
		rest = s->rest_sum;
	}
	s->question_sum = message + negated(swapped_if_odd(rest, end));

	uint16_t check = s->udp_check;
	if (check == 0 && s->family == IPV4)
		return 0; /* no checksum (RFC 768); over IPv6 there must be one (RFC 8200 section 8.1) */

	/* Protocol 17 and the length, as the pseudo-header has them (RFC 768, RFC 8200 section 8.1). */
	uint16_t udp_size = bpf_htons(size + 8);
	uint64_t pseudo = s->address_sum + bpf_htons(17) + udp_size;
	uint64_t counts = (uint64_t)bpf_htons(1) << (s->has_opt != 0); /* one question, and at most one record: read_question saw to it */
	uint64_t sum = pseudo + s->source_port + s->service_port + udp_size + check + s->query_head + counts + message;
	int is_right = check != 0 && is_right_sum(sum);
	int is_partial = s->interface_flags & INTERFACE_VIRTUAL && check != 0 && is_right_sum(pseudo + (uint16_t)~check);

	s->partial = is_partial;
	if (is_right == is_partial) /* neither, or both: which of the two it is decides how to reply */
		return PASS_UDP_CHECKSUM;
	return 0;
}
