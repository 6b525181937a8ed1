/* The load generator in the kernel: one program that writes queries, one that takes the responses.
 *
 * `generate` is run by BPF_PROG_TEST_RUN with live frames: every frame that it returns XDP_REDIRECT for leaves by the
 * interface.  `sink` is attached (native XDP) to the interface where the responses come back; it counts, checks and
 * drops them.  bench/engine_kernel.py fills the maps and mirrors every struct here.
 *
 * Nothing is remembered about a query but what its response brings back.  Query number s, counted on from run to run, has
 *
 *     slot           s mod slots
 *     id             low × 40503            low = s mod 2^16; 40503 is odd, so this can be undone
 *     source address ... host(low) ^ epoch  epoch = s / 2^16, in the low 16 bits of the address
 *     source port    port(low, epoch)       1024 … 65535
 *
 * so the sink computes s from id and address, and the port tells whether all three belong together.
 *
 * With a `ring` the generator stands for a network card: queries that are due wait in a ring of that many places, are
 * handed over in a burst every `gather_ns` (as a card moderates its interrupts), and what veth has no room for goes
 * again: `handed_over` learns that from the tracepoint of the driver's call.  What comes when all places are taken is
 * lost.  Time counts from when a query was due, so what it waited here is part of its latency.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_SLOTS 65536
#define MAX_FRAME 448         /* Ethernet 14, IPv6 40, UDP 8, DNS 384, rounded up to 64 */
#define SAMPLED 16            /* one latency in so many */
#define STAMPS (1 << 20)      /* so many times SAMPLED later, a query takes the place of an earlier one: 20 s at 810 k/s */
#define BURST 128             /* frames sent at once after the generator was held up; what is behind it is not made up */
#define MAX_BURST 128         /* queries between generate and handed_over: a batch of the test run (64), a bulk (16) */
#define BULK 16               /* frames that the kernel hands over at once (DEV_MAP_BULK_SIZE) */
#define RETRY_NS 5000
#define ABSENT_NS 100000      /* the generator itself did not run */
#define BINS 656              /* bench/load.py: 16 per power of two, up to 2^40 ns */
#define SAMPLE_OCTETS 2048
#define ANY_RCODE 0xff

struct slot {
	__u16 frame_size;
	__u8 family;              /* 4 or 6 */
	__u8 unused;
	__u32 ip_sum;             /* ones' complement sum of the IPv4 header without source low 16 bits */
	__u32 udp_sum;            /* of pseudo header, UDP header and message without source low 16 bits, port and id */
	__u8 frame[MAX_FRAME];
};

struct expected {
	__u16 size;               /* octets of the DNS message; 0 = not known */
	__u8 rcode;               /* ANY_RCODE = not known */
	__u8 unused;
};

struct control {
	__u64 start_ns;           /* CLOCK_MONOTONIC */
	__u64 end_ns;
	__u64 rate;               /* per second; 0 = as many as can be */
	__u64 first;              /* s of the run's first query: what has a smaller one comes late, from an earlier run */
	__u64 limit;              /* s of the first query that is too many */
	__u64 next;               /* s of the next query */
	__u64 scheduled;          /* slots of the schedule used or forfeited */
	__u64 granted;            /* slots of it that were due when that was last looked at */
	__u64 next_grant_ns;
	__u64 gather_ns;          /* between two such looks */
	__u64 overflowed;         /* queries for which the ring had no place */
	__u64 retry_ns;           /* when what veth had no room for goes again */
	__u64 seen_ns;            /* when `generate` ran last */
	__u64 absent_ns;          /* how long it did not run since all that was due had gone */
	__u32 ring;               /* queries that wait for room; 0 = none does */
	__u32 cpu;                /* where `generate` runs */
	__u32 slots;
	__u32 ifindex;
	__u32 sample_every;       /* responses; 0 = none */
	__u32 taking;             /* the sink takes responses; else everything passes */
};

struct seen {
	__u64 answered;
	__u64 octets;
	__u64 truncated;
	__u64 wrong_id;
	__u64 wrong_rcode;
	__u64 wrong_size;
	__u64 duplicate;
	__u64 untimed;            /* came so late that a later query has the place of its stamp */
	__u64 late;
	__u64 other;              /* packets that are no DNS responses */
	__u64 samples_lost;
	__u64 rcodes[16];
	__u64 latency[BINS];
};

struct stamp {
	__u64 s;
	__u64 sent_ns;            /* 0 = answered */
};

/* What the generator gave to the kernel and has not heard of yet, and what is to go again, in order. */
struct transit {
	__u64 given;
	__u64 handed;
	__u64 again;
	__u64 gone_again;
	__u64 order[MAX_BURST];   /* s by given */
	__u64 waiting[MAX_BURST]; /* s by again */
};

struct sample {
	__u32 slot;
	__u32 size;
	__u8 octets[SAMPLE_OCTETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, struct expected);
} expectations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} controls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, STAMPS);
	__type(key, __u32);
	__type(value, struct stamp);
} stamps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct transit);
} transits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct seen);
} results SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} samples SEC(".maps");

static const __u32 zero = 0;

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u16 host_of(__u16 low)
{
	return (__u16)(low * 25173u + 13849u);
}

static __always_inline __u16 port_of(__u16 low, __u16 epoch)
{
	__u32 mixed = (low * 31421u + epoch * 6927u + 2311u) & 0xffff;
	return 1024 + ((mixed * 64512u) >> 16);
}

/* Takes a slot of the schedule, if one is due. */
static __always_inline int due(struct control *control, __u64 now)
{
	if (!control->rate)
		return 1;
	if (control->scheduled >= control->granted) {
		if (now < control->next_grant_ns)
			return 0;
		__u64 until = now < control->end_ns ? now : control->end_ns, room = control->ring ?: BURST;
		__u64 granted = (until - control->start_ns) * control->rate / 1000000000;
		__u64 behind = granted - control->scheduled;
		if (behind > room) {
			/* What was due while the generator itself did not run, it cannot be said to have offered. */
			__u64 absent = control->absent_ns * control->rate / 1000000000;
			if (control->ring && behind - room > absent)
				control->overflowed += behind - room - absent;
			control->scheduled = granted - room;
		}
		if (behind < BURST || behind > room)
			control->absent_ns = 0;
		control->granted = granted;
		control->next_grant_ns = now + control->gather_ns;
		if (control->scheduled >= granted)
			return 0;
	}
	control->scheduled++;
	return 1;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	struct control *control = bpf_map_lookup_elem(&controls, &zero);
	if (!control || !control->slots)
		return XDP_ABORTED;

	struct transit *transit = bpf_map_lookup_elem(&transits, &zero);
	__u64 now = bpf_ktime_get_ns(), stamped = now, s;
	if (!transit || now < control->start_ns)
		return XDP_DROP;
	if (now - control->seen_ns > ABSENT_NS)
		control->absent_ns += now - control->seen_ns;
	control->seen_ns = now;
	if (transit->gone_again != transit->again) {
		if (now < control->retry_ns)
			return XDP_DROP;
		s = transit->waiting[transit->gone_again++ % MAX_BURST];
		stamped = 0;
	} else {
		s = control->next;
		if (s >= control->limit || (now >= control->end_ns && !control->ring) || !due(control, now))
			return XDP_DROP;
		if (control->ring)
			stamped = control->start_ns + (control->scheduled - 1) * 1000000000 / (control->rate ?: 1);
		control->next = s + 1;
	}
	__u32 number = s % control->slots;
	struct slot *slot = bpf_map_lookup_elem(&slots, &number);
	if (!slot)
		return XDP_ABORTED;
	__u64 size = slot->frame_size;
	int growth = (int)size - (int)(ctx->data_end - ctx->data);
	if (growth && bpf_xdp_adjust_tail(ctx, growth))
		return XDP_ABORTED;
	/* Two plain comparisons: clang would make one of both that the verifier learns nothing from. */
	asm volatile("" : "+r"(size));
	if (size > MAX_FRAME)
		return XDP_ABORTED;
	asm volatile("" : "+r"(size));
	if (size < ETH_HLEN + sizeof(struct iphdr) + sizeof(struct udphdr) + 12)
		return XDP_ABORTED;
	/* Frames are used again as the responder left them: everything is written anew. */
	if (bpf_xdp_store_bytes(ctx, 0, slot->frame, size))
		return XDP_ABORTED;

	__u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;
	__u16 low = s, epoch = s >> 16;
	__u16 host = host_of(low) ^ epoch, port = port_of(low, epoch), id = low * 40503u;
	__u16 checksum = ~fold((__u64)slot->udp_sum + host + port + id);
	if (!checksum)
		checksum = 0xffff;
	struct udphdr *udp;
	if (slot->family == 4) {
		struct iphdr *ip = (void *)(data + ETH_HLEN);
		udp = (void *)(ip + 1);
		if ((__u8 *)(udp + 1) + 2 > end)
			return XDP_ABORTED;
		((__u16 *)&ip->saddr)[1] = bpf_htons(host);
		ip->check = bpf_htons((__u16)~fold((__u64)slot->ip_sum + host));
	} else {
		struct ipv6hdr *ip = (void *)(data + ETH_HLEN);
		udp = (void *)(ip + 1);
		if ((__u8 *)(udp + 1) + 2 > end)
			return XDP_ABORTED;
		ip->saddr.in6_u.u6_addr16[7] = bpf_htons(host);
	}
	udp->source = bpf_htons(port);
	udp->check = bpf_htons(checksum);
	*(__u16 *)(udp + 1) = bpf_htons(id);

	if (s % SAMPLED == 0 && stamped) {
		__u32 at = s / SAMPLED % STAMPS;
		struct stamp *stamp = bpf_map_lookup_elem(&stamps, &at);
		if (stamp) {
			stamp->s = s;
			stamp->sent_ns = stamped;
		}
	}
	if (control->ring) {
		control->cpu = bpf_get_smp_processor_id();
		transit->order[transit->given++ % MAX_BURST] = s;
	}
	return bpf_redirect(control->ifindex, 0);
}

/* Arguments: from, to, sent, dropped, error.  Of what was given the first *sent* went, the rest found no room. */
SEC("raw_tp/xdp_devmap_xmit")
int handed_over(struct bpf_raw_tracepoint_args *ctx)
{
	struct control *control = bpf_map_lookup_elem(&controls, &zero);
	struct transit *transit = bpf_map_lookup_elem(&transits, &zero);
	__u32 sent = ctx->args[2], dropped = ctx->args[3];

	if (!control || !transit || !control->ring || control->cpu != bpf_get_smp_processor_id())
		return 0;
	if (sent + dropped > transit->given - transit->handed)
		return 0; /* somebody else's */
	transit->handed += sent;
	for (__u32 i = 0; i < BULK && i < dropped; i++)
		transit->waiting[transit->again++ % MAX_BURST] = transit->order[transit->handed++ % MAX_BURST];
	if (dropped)
		control->retry_ns = bpf_ktime_get_ns() + RETRY_NS;
	return 0;
}

static __always_inline void measure(struct seen *seen, __u64 s)
{
	__u32 at = s / SAMPLED % STAMPS;
	struct stamp *stamp = bpf_map_lookup_elem(&stamps, &at);
	if (!stamp)
		return;
	if (stamp->s != s) {
		seen->untimed++;
		return;
	}
	if (!stamp->sent_ns) {
		seen->duplicate++;
		return;
	}
	__u64 took = bpf_ktime_get_ns() - stamp->sent_ns, bin = took;
	stamp->sent_ns = 0;
	if (took >= 16) {
		__u32 exponent = 4;
		__u64 rest = took >> 5;
		for (int i = 0; i < 36 && rest; i++, rest >>= 1)
			exponent++;
		bin = (exponent - 3) * 16 + ((took >> (exponent - 4)) & 15);
	}
	if (bin >= BINS)
		bin = BINS - 1;
	seen->latency[bin]++;
}

static __always_inline void copy(struct xdp_md *ctx, struct seen *seen, __u32 slot, __u32 offset, __u32 size)
{
	struct sample *sample;

	__u64 octets = size;
	asm volatile("" : "+r"(octets));
	if (octets > SAMPLE_OCTETS)
		return;
	asm volatile("" : "+r"(octets));
	if (octets == 0)
		return;
	sample = bpf_ringbuf_reserve(&samples, sizeof(*sample), 0);
	if (!sample) {
		seen->samples_lost++;
		return;
	}
	sample->slot = slot;
	sample->size = size;
	if (bpf_xdp_load_bytes(ctx, offset, sample->octets, octets))
		sample->size = 0;
	bpf_ringbuf_submit(sample, BPF_RB_NO_WAKEUP);
}

/* xdp.frags: without it the peer may not send TCP segments larger than a page, which would slow the servers' TCP. */
SEC("xdp.frags")
int sink(struct xdp_md *ctx)
{
	struct control *control = bpf_map_lookup_elem(&controls, &zero);
	struct seen *seen = bpf_map_lookup_elem(&results, &zero);
	__u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;
	struct ethhdr *ethernet = (void *)data;
	struct udphdr *udp;
	__u16 host;

	if (!control || !seen || !control->taking || (void *)(ethernet + 1) > (void *)end)
		return XDP_PASS;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(ethernet + 1);
		udp = (void *)(ip + 1);
		if ((__u8 *)(udp + 1) + 12 > end || ip->protocol != IPPROTO_UDP || ip->ihl != 5)
			return XDP_PASS;
		host = bpf_ntohs(((__u16 *)&ip->daddr)[1]);
	} else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(ethernet + 1);
		udp = (void *)(ip + 1);
		if ((__u8 *)(udp + 1) + 12 > end || ip->nexthdr != IPPROTO_UDP)
			return XDP_PASS;
		host = bpf_ntohs(ip->daddr.in6_u.u6_addr16[7]);
	} else {
		return XDP_PASS;
	}

	__u8 *dns = (__u8 *)(udp + 1);
	if (!(dns[2] & 0x80)) {
		seen->other++;
		return XDP_PASS;
	}
	__u16 id = dns[0] << 8 | dns[1];
	__u16 low = id * 30599u;         /* the inverse of 40503 modulo 2^16 */
	__u16 epoch = host ^ host_of(low);
	__u64 s = (__u64)epoch << 16 | low;
	__u32 size = bpf_ntohs(udp->len) - sizeof(*udp);

	if (bpf_ntohs(udp->dest) != port_of(low, epoch) || s >= control->next) {
		seen->answered++;
		seen->wrong_id++;
		return XDP_DROP;
	}
	if (s < control->first) {
		seen->late++;
		return XDP_DROP;
	}
	seen->answered++;
	seen->octets += size;
	__u32 slot = s % (control->slots ?: 1);
	struct expected *expected = bpf_map_lookup_elem(&expectations, &slot);
	__u8 rcode = dns[3] & 15;
	seen->rcodes[rcode]++;
	seen->truncated += dns[2] >> 1 & 1;
	if (expected) {
		if (expected->rcode != ANY_RCODE && expected->rcode != rcode)
			seen->wrong_rcode++;
		if (expected->size && expected->size != size)
			seen->wrong_size++;
	}
	if (s % SAMPLED == 0)
		measure(seen, s);
	if (control->sample_every && seen->answered % control->sample_every == 0)
		copy(ctx, seen, slot, dns - data, size);
	return XDP_DROP;
}

/* Attached to the far end to measure what the generator itself can do. */
SEC("xdp")
int discard(struct xdp_md *ctx)
{
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
