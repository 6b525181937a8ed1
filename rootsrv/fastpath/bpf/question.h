/* The query: header, question, OPT record. */

#define DNS_HEADER 12
#define MAX_NAME 255
#define MAX_LABEL 63

#define FLAG_QR 0x8000
#define FLAG_TC 0x0200
#define FLAG_RD 0x0100
#define OPCODE_MASK 0x7800
#define FLAGS_NOT_IN_QUERIES 0x06cf /* AA, TC, RA, Z and RCODE; AD and CD say nothing to us (RFC 4035 section 3.1.6) */

#define TYPE_OPT 41
#define TYPE_DS 43
#define TYPE_DNSKEY 48

#define OPT_HEADER 11
#define OPTION_NSID 3
#define OPTION_ECS 8
#define OPTION_EXPIRE 9
#define OPTION_COOKIE 10
#define OPTION_KEEPALIVE 11
#define OPTION_ERROR 15
#define OPTION_ZONEVERSION 19

#define CLIENT_COOKIE_SIZE 8
#define COOKIE_OPTION_SIZE 24
#define COOKIE_HEADER(size) (bpf_htons(OPTION_COOKIE) | (uint32_t)bpf_htons(size) << 16)

/* Header and question. */
static __always_inline int read_question(struct scratch *s)
{
	uint16_t flags = bpf_ntohs(s->query_head >> 16);
	if (flags & FLAG_QR)
		return PASS_RESPONSE;
	if (flags & OPCODE_MASK)
		return PASS_OPCODE;
	if (flags & FLAGS_NOT_IN_QUERIES)
		return PASS_FLAGS;
	uint64_t counts = __builtin_bswap64(s->query_counts);
	if (counts != 0x0001000000000000 && counts != 0x0001000000000001)
		return PASS_COUNTS;
	s->has_opt = counts & 1;
	s->reply_flags = FLAG_QR | (flags & FLAG_RD);

	uint64_t offset = DNS_HEADER, last = DNS_HEADER;
	uint32_t labels = 0;
	for (uint32_t i = 0; i < 128; i++) {
		uint8_t octets = *message_at(s, offset);
		if (octets == 0)
			goto at_end;
		if (octets > MAX_LABEL)
			return PASS_QNAME;
		last = offset;
		labels++;
		offset += octets + 1;
		if (offset > DNS_HEADER + MAX_NAME - 1)
			return PASS_QNAME;
	}
	return PASS_QNAME;
at_end:
	if (offset + 5 > s->size)
		return PASS_QNAME;
	s->labels = labels;
	s->last_label_at = last;
	s->name_size = offset + 1 - DNS_HEADER;
	s->question_end = offset + 5;

	uint16_t qtype = bpf_ntohs(LOAD16(message_at(s, offset + 1)));
	if (LOAD16(message_at(s, offset + 3)) != bpf_htons(1))
		return PASS_QCLASS;
	if (qtype == 0 || qtype == TYPE_OPT || (qtype >= 249 && qtype <= 254)) /* TKEY, TSIG, transfers, MAILB, MAILA */
		return PASS_QTYPE;
	s->qtype = qtype;
	s->rest_sum = s->rest_summed = 0;
	s->do_flag = 0;
	s->asks_nsid = 0;
	s->cookie_size = 0;
	s->cookie_is_good = 0;
	if (capturing.units)
		s->fact_opt = qtype | (uint64_t)s->name_size << FACT_NAME_AT | (uint64_t)s->size << FACT_QUERY_AT;
	s->limit = 512; /* RFC 1035 section 4.2.1 */
	if (!s->has_opt && s->question_end != s->size)
		return PASS_TRAILING;
	return 0;
}

/* One EDNS option, at s->option_at; moves that on. */
static __always_inline int read_option(struct scratch *s)
{
	uint32_t start = s->option_at, end = s->size;
	if (start + 4 > end)
		return PASS_OPT;
	uint16_t code = bpf_ntohs(LOAD16(message_at(s, start)));
	uint16_t size = bpf_ntohs(LOAD16(message_at(s, start + 2)));
	if (start + 4 + size > end)
		return PASS_OPT;
	s->option_at = start + 4 + size;

	switch (code) {
	case OPTION_NSID:
		s->asks_nsid = 1;
		return 0;
	case OPTION_COOKIE:
		if (s->cookie_size || (size != 8 && size < 16) || size > 40)
			return PASS_COOKIE;
		s->cookie_size = size;
		if (capturing.units)
			s->fact_opt |= FACT_COOKIE;
		s->cookie_at = start + 4;
		return 0;
	case OPTION_EXPIRE:
	case OPTION_KEEPALIVE:
	case OPTION_ERROR:
	case OPTION_ZONEVERSION:
		return PASS_OPTION;
	default:
		if (capturing.units && code == OPTION_ECS)
			s->fact_opt |= FACT_CLIENT_SUBNET;
		return 0; /* answered by neither way: client subnet, padding, whatever comes */
	}
}

/* All of them, from s->option_at to the message's end. */
STEP read_options(struct scratch *s)
{
	if (!s)
		return PASS_OPT;
	for (uint32_t i = 0; i < MAX_OPTIONS; i++) {
		if (s->option_at >= s->size)
			return 0;
		int reason = read_option(s);
		if (reason)
			return reason;
	}
	return s->option_at >= s->size ? 0 : PASS_OPT;
}

/* The OPT record (RFC 6891), the only one that may stand behind the question. */
static __always_inline int read_opt(struct scratch *s)
{
	uint32_t start = s->question_end, size = s->size;
	if (start + OPT_HEADER > size)
		return PASS_OPT;
	if (*message_at(s, start) != 0 || LOAD16(message_at(s, start + 1)) != bpf_htons(TYPE_OPT))
		return PASS_OPT;
	uint16_t offer = LOAD16(message_at(s, start + 3)), flags = LOAD16(message_at(s, start + 7));
	uint16_t data_size = LOAD16(message_at(s, start + 9));
	uint32_t offered = bpf_ntohs(offer);
	if (LOAD16(message_at(s, start + 5)) != 0) /* extended RCODE and version */
		return PASS_OPT;
	/* All else is 0; its fields stand at odd offsets. */
	s->rest_sum = ((uint64_t)bpf_htons(TYPE_OPT) + offer + flags + data_size) << 8;
	s->rest_summed = OPT_HEADER;
	s->do_flag = (bpf_ntohs(flags) & 0x8000) != 0;
	if (capturing.units)
		s->fact_opt |= (uint64_t)offered << FACT_UDP_SIZE_AT | FACT_OPT | (uint64_t)s->do_flag << FACT_DO_AT;
	uint32_t options = bpf_ntohs(data_size);
	if (start + OPT_HEADER + options != size)
		return options > size ? PASS_OPT : PASS_TRAILING;

	uint32_t largest = control.max_udp_response;
	if (offered < 512)
		offered = 512; /* RFC 6891 section 6.2.3 */
	s->limit = smaller(offered, largest);

	if (!options)
		return 0;
	s->option_at = start + OPT_HEADER;
	uint32_t header = LOAD32(message_at(s, start + OPT_HEADER));
	int is_client = options == 4 + CLIENT_COOKIE_SIZE && header == COOKIE_HEADER(CLIENT_COOKIE_SIZE);
	if (is_client || (options == 4 + COOKIE_OPTION_SIZE && header == COOKIE_HEADER(COOKIE_OPTION_SIZE))) {
		/* A cookie alone, which is nearly all that options are used for; a client's alone comes on first contact. */
		s->cookie_size = options - 4;
		s->cookie_at = start + OPT_HEADER + 4;
		if (capturing.units)
			s->fact_opt |= FACT_COOKIE;
		if (is_client) {
			const uint8_t *behind = message_at(s, start + OPT_HEADER - 1); /* at an even offset, as sums want it */
			s->rest_sum = (((uint64_t)bpf_htons(TYPE_OPT) + offer + flags) << 8) + LOAD32(behind) +
				      LOAD32(behind + 4) + LOAD32(behind + 8) + behind[12];
			s->rest_summed = OPT_HEADER + 4 + CLIENT_COOKIE_SIZE;
		}
		return 0;
	}
	return read_options(s);
}
