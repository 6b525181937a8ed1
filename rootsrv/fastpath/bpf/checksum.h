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
	return offset & 1 ? __builtin_bswap16(folded) : folded;
}

static __always_inline uint64_t halves(uint64_t word)
{
	return (word & 0xffffffff) + (word >> 32);
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

	uint64_t question = 0, rest = 0;
	uint64_t size = s->size, end = s->question_end;
	uint64_t zero_at = size;

	BOUND(zero_at, MAX_QUERY * 2 - 1);
	if (zero_at > MAX_QUERY)
		return PASS_MESSAGE_SIZE;
	*(uint64_t *)(s->message + zero_at) = 0;

	for (uint32_t i = 0; i < 34; i++) { /* a question has at most 255 + 4 octets */
		int64_t left = (int64_t)end - 12 - i * 8;
		if (left <= 0)
			break;
		question += halves(first_octets(LOAD64(message_at(s, 12 + i * 8)), left));
	}
	for (uint32_t i = 0; i < MAX_QUERY / 8; i++) {
		if (end + i * 8 >= size)
			break;
		rest += halves(LOAD64(message_at(s, end + i * 8)));
	}
	s->question_sum = fold(question);

	uint16_t check = s->udp_check;
	if (check == 0 && s->family == IPV4)
		return 0; /* no checksum (RFC 768); over IPv6 there must be one (RFC 8200 section 8.1) */

	/* Protocol 17 and the length, as the pseudo-header has them (RFC 768, RFC 8200 section 8.1). */
	uint16_t udp_size = bpf_htons(size + 8);
	uint64_t pseudo = (uint64_t)s->address_sum + bpf_htons(17) + udp_size;
	uint64_t header = LOAD64(s->message);
	uint64_t sum = pseudo + s->source_port + s->service_port + udp_size + check + halves(header) +
		       LOAD32(s->message + 8) + s->question_sum + swapped_if_odd(fold(rest), end);
	int is_right = check != 0 && fold(sum) == 0xffff;
	int is_partial = check == fold(pseudo) && s->interface_flags & INTERFACE_VIRTUAL;

	s->partial = is_partial;
	if (is_right == is_partial) /* neither, or both: which of the two it is decides how to reply */
		return PASS_UDP_CHECKSUM;
	return 0;
}

/* The sum of *size* octets of our OPT record. */
static __always_inline uint32_t sum_opt(const struct scratch *s, uint64_t size)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < OPT_ROOM / 8; i++) {
		if (i * 8 >= size)
			break;
		sum += halves(first_octets(LOAD64(s->opt + i * 8), size - i * 8));
	}
	return fold(sum);
}
