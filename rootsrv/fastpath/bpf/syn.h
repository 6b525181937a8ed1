/* A budget of SYNs for each CPU, in XDP: what is over it is dropped before the stack answers it.  Off unless an operator says so.
 *
 * GCRA as in limits.h, with one time per CPU: a network card deals connections to CPUs, so no other CPU writes it.
 */

#define PROTOCOL_TCP 6
#define TCP_FLAGS 13 /* where they stand in the header */
#define SYN 0x02
#define ACK 0x10

/* Whether the packet, which is not UDP, begins a TCP connection to a service address. */
static __always_inline int is_syn(struct scratch *s, void *data, void *data_end)
{
	uint64_t at = s->network_at;

	BOUND(at, 31);
	uint8_t *network = data + at;
	if ((void *)(network + IPV4_HEADER + TCP_FLAGS + 1) > data_end)
		return 0;
	uint8_t flags;
	if (*network == 0x45) {
		struct ipv4 *ip = (void *)network;
		if (ip->protocol != PROTOCOL_TCP || ip->fragment & ~bpf_htons(0x4000))
			return 0;
		s->family = IPV4;
		s->source[0] = ip->from;
		s->service[0] = ip->to;
		flags = network[IPV4_HEADER + TCP_FLAGS];
	} else {
		struct ipv6 *ip = (void *)network;
		if ((*network & 0xf0) != 0x60 || (void *)(network + IPV6_HEADER + TCP_FLAGS + 1) > data_end ||
		    ip->protocol != PROTOCOL_TCP)
			return 0;
		s->family = IPV6;
		s->source[0] = ip->from[0];
		s->source[1] = ip->from[1];
		s->service[0] = ip->to[0];
		s->service[1] = ip->to[1];
		flags = network[IPV6_HEADER + TCP_FLAGS];
	}
	return (flags & (SYN | ACK)) == SYN;
}

/* Whether this SYN is one too many on this CPU; it is charged if not. */
STEP is_over_syns(struct scratch *s)
{
	if (!s)
		return 0;
	uint64_t interval = admission.syn_interval, family = s->family, live = s->live;
	uint64_t now = live ? bpf_ktime_get_boot_ns() : admission.test_clock;
	uint64_t until = live ? s->syns_until : s->test_syns_until;

	if (!now || judge_addresses(s))
		return 0;
	if (until < now)
		until = now;
	until += interval;
	if (until > now + admission.syn_burst) {
		BOUND(family, 1);
		s->counters[live & 1].syns[family]++;
		return 1;
	}
	if (live)
		s->syns_until = until;
	else
		s->test_syns_until = until;
	return 0;
}
