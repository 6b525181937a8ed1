/* The Internet checksum (RFC 1071).
 *
 * Theory: sums are kept as 32- or 64-bit numbers of little-endian 16-bit words and folded at the end; the ones'
 * complement sum does not care about byte order as long as a part that starts at an odd offset is swapped (RFC 1071
 * section 2 (B)).  The body of a response is never summed: the table holds the sum of every cut, and moving E pointers at
 * even and O pointers at odd offsets by d adds E·d + O·swap(d).
 */

static __always_inline uint32_t fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static __always_inline uint32_t swapped_if_odd(uint32_t folded, uint32_t offset)
{
	return (folded << 16 | folded) >> (offset & 1) * 8 & 0xffff; /* a branch would be guessed wrong half of the time */
}

static __always_inline uint64_t halves(uint64_t word)
{
	return (word & 0xffffffff) + (word >> 32);
}

#define SUMMED_AT_ONCE 64 /* octets: behind every message there are as many zeros in the scratch space */

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

/* Verifies the query's UDP checksum (RFC 7720 section 2) and leaves the sum of the question section.
 *
 * On a link that never leaves this host the sender may have left the checksum to be finished by hardware that is not
 * there: the field then holds the sum of the pseudo-header alone (CHECKSUM_PARTIAL).
 */
STEP verify_checksum(struct scratch *s)
{
	if (!s)
		return PASS_SHORT;

	uint64_t size = s->size, end = s->question_end;
	uint64_t message = 0, rest = 0;

	/* The whole message behind its header: nearly always one turn, so that no branch depends on the size. */
	for (uint32_t i = 0; i < MAX_QUERY / SUMMED_AT_ONCE; i++) {
		if (DNS_HEADER + i * SUMMED_AT_ONCE >= size)
			break;
		const uint8_t *data = s->message + DNS_HEADER + i * SUMMED_AT_ONCE;
		for (uint32_t j = 0; j < SUMMED_AT_ONCE; j += 4)
			message += LOAD32(data + j);
	}
	/* The question is what is not OPT. */
	if (s->has_opt)
		rest = sum_octets(message_at(s, end), size - end, MAX_QUERY);
	rest = swapped_if_odd(fold(rest), end);
	s->question_sum = fold(fold(message) + (rest ^ 0xffff));

	uint16_t check = s->udp_check;
	if (check == 0 && s->family == IPV4)
		return 0; /* no checksum (RFC 768); over IPv6 there must be one (RFC 8200 section 8.1) */

	/* Protocol 17 and the length, as the pseudo-header has them (RFC 768, RFC 8200 section 8.1). */
	uint16_t udp_size = bpf_htons(size + 8);
	uint64_t pseudo = (uint64_t)s->address_sum + bpf_htons(17) + udp_size;
	uint64_t header = LOAD64(s->message);
	uint64_t sum = pseudo + s->source_port + s->service_port + udp_size + check + halves(header) +
		       LOAD32(s->message + 8) + fold(message);
	int is_right = check != 0 && fold(sum) == 0xffff;
	int is_partial = check == fold(pseudo) && s->interface_flags & INTERFACE_VIRTUAL;

	s->partial = is_partial;
	if (is_right == is_partial) /* neither, or both: which of the two it is decides how to reply */
		return PASS_UDP_CHECKSUM;
	return 0;
}
