/* Link, network and transport headers: in, and out again in the other direction. */

#define ETH_HEADER 14
#define VLAN_TAG 4
#define ETH_IPV4 0x0800
#define ETH_IPV6 0x86dd
#define ETH_VLAN 0x8100
#define ETH_SERVICE_VLAN 0x88a8
#define PROTOCOL_UDP 17
#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define UDP_HEADER 8
#define ALL_HEADERS (ETH_HEADER + IPV6_HEADER + UDP_HEADER + DNS_HEADER) /* without a tag */
#define HOP_LIMIT 64 /* RFC 1700's default, and Linux's */

/* Not "packed", though they stand at odd places: clang would take every field octet by octet. */
struct ethernet {
	uint8_t to[6], from[6];
	uint16_t type;
};

struct ipv4 {
	uint8_t version_and_size, service;
	uint16_t size, id, fragment;
	uint8_t hop_limit, protocol;
	uint16_t check;
	uint32_t from, to;
};

struct ipv6 {
	uint32_t version_and_flow;
	uint16_t size;
	uint8_t protocol, hop_limit;
	uint64_t from[2], to[2];
};

struct udp {
	uint16_t from, to, size, check;
};

/* Whether the packet says that it comes from one of this host's addresses.  Hardly any does: one bit settles nearly all,
 * however many addresses there are.
 */
static __always_inline int may_be_own(uint64_t upper, uint64_t lower)
{
	uint64_t hash = (upper * 0x9e3779b97f4a7c15 ^ lower) * 0xff51afd7ed558ccd >> 52;

	BOUND(hash, OWN_FILTER_BITS - 1);
	return control.own_filter[hash >> 3] >> (hash & 7) & 1;
}

static __always_inline int is_own(uint64_t upper, uint64_t lower)
{
	if (!may_be_own(upper, lower))
		return 0;
	struct ipv6_address address = { .upper = upper, .lower = lower };
	return control.own_overflow || bpf_map_lookup_elem(&own_addresses, &address);
}

/* Whether the packet was sent to a service address, from an address that is not this host's. */
STEP judge_addresses(struct scratch *s)
{
	if (!s)
		return PASS_DESTINATION;

	int loopback = s->interface_flags & INTERFACE_LOOPBACK;
	uint64_t upper = s->source[0], lower = s->source[1];
	if (s->family == IPV4) {
		uint32_t to = s->service[0];
		uint8_t first = upper;
		for (uint32_t i = 0; i < MAX_SERVICE_ADDRESSES; i++) {
			if (i >= control.service_ipv4_count)
				break;
			if (control.service_ipv4[i] == to)
				goto ipv4_is_ours;
		}
		return PASS_DESTINATION;
	ipv4_is_ours:
		if (first == 0 || first >= 224)
			return PASS_SOURCE;
		if (loopback)
			return 0;
		return first == 127 || is_own(0, upper << 32 | 0xffff0000) ? PASS_SOURCE : 0;
	}
	for (uint32_t i = 0; i < MAX_SERVICE_ADDRESSES; i++) {
		if (i >= control.service_ipv6_count)
			break;
		if (control.service_ipv6[i].upper == s->service[0] && control.service_ipv6[i].lower == s->service[1])
			goto ipv6_is_ours;
	}
	return PASS_DESTINATION;
ipv6_is_ours:
	if ((upper & 0xff) == 0xff) /* multicast */
		return PASS_SOURCE;
	if (upper == 0) /* ::, ::1, IPv4-mapped and -compatible */
		return loopback && lower == 0x0100000000000000 ? 0 : PASS_SOURCE;
	return !loopback && is_own(upper, lower) ? PASS_SOURCE : 0;
}

/* Whether judge_addresses would find nothing, told without a call for nearly every packet: sent to the first service address of its
 * family, from an address that is none of those it looks at.
 */
static __always_inline int addresses_are_plain(const struct scratch *s)
{
	uint64_t upper = s->source[0], lower = s->source[1];

	if (s->family == IPV4) {
		uint8_t first = upper;
		return control.service_ipv4_count && control.service_ipv4[0] == (uint32_t)s->service[0] && first != 0 &&
		       first != 127 && first < 224 && !may_be_own(0, upper << 32 | 0xffff0000);
	}
	return control.service_ipv6_count && control.service_ipv6[0].upper == s->service[0] &&
	       control.service_ipv6[0].lower == s->service[1] && upper && (upper & 0xff) != 0xff && !may_be_own(upper, lower);
}

/* The interface's record: its flags and MTU; with *mac* also whether the frame was sent to it. */
static __always_inline int judge_interface(struct scratch *s, const struct ethernet *ethernet, int check_mac)
{
	for (uint32_t i = 0; i < MAX_INTERFACES; i++) {
		const struct interface *interface = &control.interfaces[i];
		if (interface->ifindex != s->ifindex)
			continue;
		s->interface_flags = interface->flags;
		s->mtu = interface->mtu;
		if (check_mac && (LOAD32(ethernet->to) != LOAD32(interface->mac) ||
				  LOAD16(ethernet->to + 4) != LOAD16(interface->mac + 4)))
			return PASS_NOT_FOR_US;
		return ethernet->from[0] & 1 ? PASS_NOT_FOR_US : 0;
	}
	return PASS_INTERFACE;
}

/* Headers up to the DNS message.  *frame_size* may be more than what lies between *data* and *data_end* (tc); the tag is in
 * the packet for XDP only, tc keeps it aside and puts it back on its own.
 */
static __always_inline int read_headers(struct scratch *s, void *data, void *data_end, uint32_t frame_size, enum hook hook)
{
	struct ethernet *ethernet = data;
	uint64_t network_at = ETH_HEADER;

	if (data + ETH_HEADER + VLAN_TAG > data_end)
		return PASS_SHORT;
	if (data + CACHE_LINE + 1 <= data_end)
		fetch(data + CACHE_LINE); /* the message, while we look at the headers */
	s->frame_size = frame_size;
	s->is_tc = hook == TC;
	int reason = judge_interface(s, ethernet, hook == XDP);
	if (reason)
		return reason;
	uint16_t type = bpf_ntohs(ethernet->type);
	if (hook == XDP && (type == ETH_VLAN || type == ETH_SERVICE_VLAN)) {
		type = bpf_ntohs(LOAD16(data + ETH_HEADER + 2));
		network_at = ETH_HEADER + VLAN_TAG;
	}
	s->network_at = network_at;

	struct udp *udp;
	uint32_t udp_size;
	if (type == ETH_IPV4) {
		struct ipv4 *ip = data + network_at;
		if (data + network_at + IPV4_HEADER + UDP_HEADER > data_end)
			return PASS_SHORT;
		if (ip->version_and_size != 0x45)
			return PASS_IP_OPTIONS;
		if (ip->protocol != PROTOCOL_UDP)
			return PASS_NOT_UDP;
		if (ip->fragment & ~bpf_htons(0x4000)) /* anything but "don't fragment" */
			return PASS_FRAGMENT;
		uint32_t size = bpf_ntohs(ip->size);
		if (size < IPV4_HEADER + UDP_HEADER || network_at + size > frame_size)
			return PASS_IP_LENGTH;
		if (!is_right_sum(sum_words((void *)ip, IPV4_HEADER)))
			return PASS_IP_CHECKSUM;
		s->family = IPV4;
		if (capturing.units)
			s->fact_head = CAPTURE_QUERY | 4 << 8 | (uint64_t)ip->hop_limit << FACT_HOP_LIMIT_AT |
				       (uint64_t)ip->service << FACT_CLASS_AT;
		s->source[0] = ip->from;
		s->service[0] = ip->to;
		s->address_sum = (uint64_t)ip->from + ip->to;
		s->message_at = network_at + IPV4_HEADER + UDP_HEADER;
		udp = (void *)(ip + 1);
		udp_size = size - IPV4_HEADER;
	} else if (type == ETH_IPV6) {
		struct ipv6 *ip = data + network_at;
		if (data + network_at + IPV6_HEADER + UDP_HEADER > data_end)
			return PASS_SHORT;
		if ((ip->version_and_flow & 0xf0) != 0x60)
			return PASS_NOT_IP;
		if (ip->protocol != PROTOCOL_UDP) /* extension headers too */
			return PASS_NOT_UDP;
		udp_size = bpf_ntohs(ip->size);
		if (udp_size < UDP_HEADER || network_at + IPV6_HEADER + udp_size > frame_size)
			return PASS_IP_LENGTH;
		if (capturing.units) {
			uint64_t traffic_class = bpf_ntohl(ip->version_and_flow) >> 20 & 0xff;
			s->fact_head = CAPTURE_QUERY | 6 << 8 | (uint64_t)ip->hop_limit << FACT_HOP_LIMIT_AT |
				       traffic_class << FACT_CLASS_AT;
		}
		s->family = IPV6;
		s->source[0] = ip->from[0];
		s->source[1] = ip->from[1];
		s->service[0] = ip->to[0];
		s->service[1] = ip->to[1];
		s->address_sum = sum_words((void *)ip->from, sizeof(ip->from) + sizeof(ip->to));
		s->message_at = network_at + IPV6_HEADER + UDP_HEADER;
		udp = (void *)(ip + 1);
	} else {
		return PASS_NOT_IP;
	}
	if (udp->to != control.port)
		return PASS_PORT;
	if (udp->from == 0 || udp->from == bpf_htons(53))
		return PASS_SOURCE;
	if (bpf_ntohs(udp->size) != udp_size)
		return PASS_UDP_LENGTH;
	s->source_port = udp->from;
	s->service_port = udp->to;
	s->udp_check = udp->check;
	s->partial = 0;
	uint64_t size = udp_size - UDP_HEADER;
	if (size < DNS_HEADER + 5 || size > MAX_QUERY)
		return PASS_MESSAGE_SIZE;
	s->size = size;
	/* From the packet itself: what was copied in words that begin elsewhere cannot be read back at once. */
	if ((void *)(udp + 1) + DNS_HEADER > data_end)
		return PASS_SHORT;
	s->query_head = LOAD32(udp + 1);
	s->query_counts = LOAD64((void *)(udp + 1) + 4);
	for (uint32_t i = 0; i < SUMMED_AT_ONCE; i += 8) /* early, so that the sum need not wait for what is written here */
		*(uint64_t *)(s->message + size + i) = 0;
	return 0;
}

/* The next IP_IDS identifications.  Nobody can predict them who does not know the key, or fragments of an answer could be forged
 * before it is sent; the kernel's bpf_get_prandom_u32 is linear, so that a few ids would tell the rest.  Four at a time come of
 * SipHash-2-4 of seven octets: how many were made on this CPU before, and which it is.
 */
STEP make_ip_ids(struct scratch *s)
{
	if (!s)
		return 0;
	uint64_t cpu = bpf_get_smp_processor_id();

	for (uint32_t i = 0; i < IP_IDS / 4; i++) {
		struct sip_state state = sip_start(control.ip_id_key);
		sip_take(&state, ((s->ip_ids_used / 4 + i) & 0xfffffffffff) | cpu << 44 | 7ULL << 56);
		s->ip_ids[i] = sip_end(&state);
	}
	return 0;
}

static __always_inline uint16_t next_ip_id(struct scratch *s)
{
	uint64_t place = s->ip_ids_used % IP_IDS;

	if (!place)
		make_ip_ids(s);
	s->ip_ids_used++;
	return LOAD16((void *)s->ip_ids + place * 2);
}

/* Turns the headers round and writes the DNS header; the frame has its new size already.  Nonzero: cannot happen. */
static __always_inline int write_headers(struct scratch *s, void *data, void *data_end)
{
	struct ethernet *ethernet = data;
	uint64_t network_at = s->network_at;
	struct udp *udp;
	uint16_t udp_size = s->response_size + UDP_HEADER;

	BOUND(network_at, 31);
	if (data + ETH_HEADER > data_end || data + network_at + IPV4_HEADER + UDP_HEADER + DNS_HEADER > data_end)
		return -1;
	uint32_t mac = LOAD32(ethernet->to);
	uint16_t mac_end = LOAD16(ethernet->to + 4);
	*(uint32_t *)ethernet->to = LOAD32(ethernet->from);
	*(uint16_t *)(ethernet->to + 4) = LOAD16(ethernet->from + 4);
	*(uint32_t *)ethernet->from = mac;
	*(uint16_t *)(ethernet->from + 4) = mac_end;
	if (s->family == IPV4) {
		struct ipv4 *ip = data + network_at;
		/* Without "don't fragment" the id must differ among fragments in flight (RFC 6864 section 4.3). */
		uint16_t id = next_ip_id(s), size = bpf_htons(udp_size + IPV4_HEADER);
		ip->version_and_size = 0x45;
		ip->service = 0;
		ip->size = size;
		ip->id = id;
		ip->fragment = 0;
		ip->hop_limit = HOP_LIMIT;
		ip->protocol = PROTOCOL_UDP;
		ip->check = ~fold((uint64_t)0x45 + size + id + (HOP_LIMIT | PROTOCOL_UDP << 8) + s->address_sum);
		ip->from = s->service[0];
		ip->to = s->source[0];
		udp = (void *)(ip + 1);
	} else {
		struct ipv6 *ip = data + network_at;
		if (data + network_at + IPV6_HEADER + UDP_HEADER + DNS_HEADER > data_end)
			return -1;
		ip->version_and_flow = 0x60;
		ip->size = bpf_htons(udp_size);
		ip->hop_limit = HOP_LIMIT;
		ip->from[0] = s->service[0];
		ip->from[1] = s->service[1];
		ip->to[0] = s->source[0];
		ip->to[1] = s->source[1];
		udp = (void *)(ip + 1);
	}
	udp->from = s->service_port;
	udp->to = s->source_port;
	udp->size = bpf_htons(udp_size);
	udp->check = s->reply_check;

	uint16_t *dns = (void *)(udp + 1);
	dns[1] = s->reply_flags;
	dns[2] = bpf_htons(1);
	dns[3] = s->ancount;
	dns[4] = s->nscount;
	dns[5] = s->arcount;
	return 0;
}

/* Our OPT record, behind the body; one with NSID is stored by the caller.  Nonzero: cannot happen. */
static __always_inline int write_opt(struct scratch *s, void *data, void *data_end)
{
	uint64_t offset = s->message_at + s->question_end + s->body_size, head = s->opt_head;
	uint32_t size = s->opt_size;

	BOUND(offset, 8191);
	uint8_t *opt = data + offset;
	if (size == 0 || s->opt_is_stored)
		return 0;
	if ((void *)(opt + OPT_HEADER) > data_end)
		return -1;
	*(uint64_t *)opt = head;
	*(uint32_t *)(opt + 7) = head >> 56;
	if (size != OPT_HEADER) {
		if ((void *)(opt + OPT_HEADER + 4 + COOKIE_OPTION_SIZE) > data_end)
			return -1;
		*(uint64_t *)(opt + 8) = OPT_WITH_COOKIE;
		*(uint64_t *)(opt + OPT_HEADER + 4) = s->cookie[0];
		*(uint64_t *)(opt + OPT_HEADER + 12) = s->cookie[1];
		*(uint64_t *)(opt + OPT_HEADER + 20) = s->cookie[2];
	}
	return 0;
}

/* Moves the body's compression pointers, which are in the packet already.  Nonzero: cannot happen. */
static __always_inline int move_pointers(struct scratch *s, const uint8_t *table, void *data, void *data_end)
{
	uint64_t left = s->pointer_count + 1, body = s->message_at + s->question_end;
	uint32_t moved_by = s->moved_by;
	const uint8_t *offsets = at(table, s->pointers_at);

	BOUND(left, 2 * MAX_POINTERS - 1);
	BOUND(body, 2047);
	data += body + sizeof(uint16_t);
	for (; left > 1; left--) { /* to 0 it would be compared for equality, of which Linux 6.1 learns nothing */
		asm volatile("" : "+r"(left));
		uint64_t place = LOAD16(offsets);
		ADVANCE(offsets, 2);
		BOUND(place, 8191);
		/* As few instructions and registers as can be: there are up to a hundred pointers. */
		asm volatile("%0 += %1" : "+r"(place) : "r"(data));
		uint16_t *behind = (void *)place;
		if ((void *)behind > data_end)
			return -1;
		behind[-1] = bpf_htons(bpf_ntohs(behind[-1]) + moved_by);
	}
	return 0;
}
