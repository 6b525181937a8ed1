/* The limit for a responder in the kernel that answers from a table: looks up, copies, sends, and nothing else.
 *
 * Theory: the answer table is rootsrv's own file, and so is the way to search it (find.h).  What is found is right, so the
 * body has the right size and comes from the right place (and is as cold).  Everything that makes it a server is left out:
 * no cookie, NSID or any other option (an OPT record that came is answered with a bare one), no cut whatever the client
 * offers, no pointer moved, no checksum verified (UDP's is 0 in the reply, IPv4's is adjusted), no lease, no counter.
 */
#include "../../rootsrv/fastpath/bpf/kernel.h"
#include "../../rootsrv/fastpath/bpf/shared.h"
#include "../../rootsrv/fastpath/bpf/table.h"
#include "../../rootsrv/fastpath/bpf/state.h"
#include "../../rootsrv/fastpath/bpf/question.h"
#include "../../rootsrv/fastpath/bpf/find.h"
#include "../../rootsrv/fastpath/bpf/hooks.h"
#include "../../rootsrv/fastpath/bpf/body.h"

#define ETHERNET 14
#define UDP 8

/* Where the last label and the question end, and what is asked; a query that is malformed is not told. */
STEP walk_question(struct scratch *s)
{
	if (!s)
		return -1;
	uint64_t offset = DNS_HEADER, last = DNS_HEADER;
	uint32_t labels = 0;

	for (uint32_t i = 0; i < 128; i++) {
		uint64_t size = *message_at(s, offset);
		if (size == 0)
			break;
		last = offset;
		labels++;
		offset += size + 1;
	}
	s->labels = labels;
	s->last_label_at = last;
	s->name_size = offset + 1 - DNS_HEADER;
	s->qtype = bpf_ntohs(LOAD16(message_at(s, offset + 1)));
	s->question_end = offset + 5;
	s->has_opt = LOAD16(s->message + 10) != 0;
	s->do_flag = s->has_opt && *message_at(s, offset + 5 + 7) & 0x80;
	s->generation = 0;
	return 0;
}

/* What the answer is made of. */
STEP read_answer(struct scratch *s)
{
	if (!s)
		return -1;
	const uint8_t *table = table_of(s->generation);
	if (!table)
		return -1;
	const struct table_answer *answer = at(table, s->answer_at);
	const struct table_cut *whole = at(table, s->answer_at - sizeof(*whole));

	s->reply_flags = bpf_htons(FLAG_QR | answer->flags);
	s->body_size = whole->size;
	take_pieces(s, answer, whole->size);
	s->ancount = bpf_htons(whole->ancount);
	s->nscount = bpf_htons(whole->nscount);
	s->arcount = bpf_htons(whole->arcount + s->has_opt);
	return 0;
}

#define SWAP(type, a, b) do { type kept = (a); (a) = (b); (b) = kept; } while (0)

/* Turns the headers round; the frame has grown by *grown* octets, to *size*.  Nonzero: cannot happen. */
static __always_inline int turn_headers(struct scratch *s, uint8_t *data, uint8_t *end, uint32_t size, uint32_t grown)
{
	if (data + ETHERNET + 20 + UDP + DNS_HEADER > end)
		return -1;
	for (int i = 0; i < 3; i++)
		SWAP(uint16_t, *(uint16_t *)(data + i * 2), *(uint16_t *)(data + 6 + i * 2));
	uint8_t *ip = data + ETHERNET;
	uint16_t *udp;
	if (s->family == IPV4) {
		SWAP(uint32_t, *(uint32_t *)(ip + 12), *(uint32_t *)(ip + 16));
		uint32_t sum = (uint16_t)~bpf_ntohs(LOAD16(ip + 10)) + grown;
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		*(uint16_t *)(ip + 10) = bpf_htons((uint16_t)~sum);
		*(uint16_t *)(ip + 2) = bpf_htons(size - ETHERNET);
		udp = (uint16_t *)(ip + 20);
	} else {
		if (ip + 40 + UDP + DNS_HEADER > end)
			return -1;
		SWAP(uint64_t, *(uint64_t *)(ip + 8), *(uint64_t *)(ip + 24));
		SWAP(uint64_t, *(uint64_t *)(ip + 16), *(uint64_t *)(ip + 32));
		*(uint16_t *)(ip + 4) = bpf_htons(size - ETHERNET - 40);
		udp = (uint16_t *)(ip + 40);
	}
	SWAP(uint16_t, udp[0], udp[1]);
	udp[2] = bpf_htons(size - s->message_at + UDP);
	udp[3] = 0;
	uint16_t *dns = udp + 4;
	dns[1] = s->reply_flags;
	dns[3] = s->ancount;
	dns[4] = s->nscount;
	dns[5] = s->arcount;
	return 0;
}

/* The message's offset in the frame; 0 for what is no query over UDP. */
static __always_inline uint32_t find_message(struct scratch *s, uint8_t *data, uint8_t *end)
{
	if (data + ETHERNET + 20 + UDP + DNS_HEADER > end)
		return 0;
	uint8_t *ip = data + ETHERNET;
	if (LOAD16(data + 12) == bpf_htons(0x0800)) {
		s->family = IPV4;
		return ip[9] == 17 && LOAD16(ip + 22) == bpf_htons(53) ? ETHERNET + 20 + UDP : 0;
	}
	if (LOAD16(data + 12) != bpf_htons(0x86dd) || ip + 40 + UDP > end)
		return 0;
	s->family = IPV6;
	return ip[6] == 17 && LOAD16(ip + 42) == bpf_htons(53) ? ETHERNET + 40 + UDP : 0;
}

/* The two hooks, by what each calls its packet and its helpers. */
#define AT_XDP(xdp, tc) (is_xdp ? (xdp) : (tc))
#define XDP ((struct xdp_md *)ctx)
#define SKB ((struct __sk_buff *)ctx)
#define DATA ((uint8_t *)AT_XDP((long)XDP->data, (long)SKB->data))
#define END ((uint8_t *)AT_XDP((long)XDP->data_end, (long)SKB->data_end))
#define STORE(at, from, size)                                                                                          \
	AT_XDP(bpf_xdp_store_bytes(XDP, at, (void *)(from), size), bpf_skb_store_bytes(SKB, at, from, size, 0))

/* 0: the packet is its own answer now; 1: it is to be passed; -1: it is spoilt. */
static __always_inline int look_up(void *ctx, int is_xdp)
{
	uint32_t key = 0;
	struct scratch *s = bpf_map_lookup_elem(&per_cpu, &key);
	const uint8_t *table = table_of(0);
	if (!s || !table)
		return 1;

	s->message_at = find_message(s, DATA, END);
	uint32_t old = AT_XDP(XDP->data_end - XDP->data, SKB->len), message_at = READ_ONCE(s->message_at);
	if (!message_at)
		return 1;
	uint64_t received = old - message_at - 1;
	BOUND(received, MAX_QUERY - 1);
	received++;
	if (AT_XDP(bpf_xdp_load_bytes(XDP, message_at, s->message, received),
		   bpf_skb_load_bytes(SKB, message_at, s->message, received)))
		return 1;
	if (walk_question(s) || find_answer(s, table) || read_answer(s))
		return 1;

	uint32_t body_at = message_at + s->question_end, has_opt = s->has_opt;
	uint32_t size = body_at + s->body_size + (has_opt ? OPT_HEADER : 0);
	if (AT_XDP(bpf_xdp_adjust_tail(XDP, (int)(size - old)), bpf_skb_change_tail(SKB, size, 0)))
		return 1;
	if (store_body(ctx, !is_xdp, s, table, body_at))
		return -1;
	if (has_opt) {
		uint8_t opt[OPT_HEADER] = {0, 0, 41, 4, 208, 0, 0, s->do_flag ? 0x80 : 0, 0, 0, 0}; /* offers 1,232 octets */
		if (STORE(body_at + s->body_size, opt, sizeof(opt)))
			return -1;
	}
	return turn_headers(s, DATA, END, size, size - old);
}

SEC("xdp")
int look_up_xdp(struct xdp_md *ctx)
{
	int failed = look_up(ctx, 1);

	return failed == 0 ? XDP_TX : failed < 0 ? XDP_ABORTED : XDP_PASS;
}

SEC("tc")
int look_up_tc(struct __sk_buff *ctx)
{
	int failed = look_up(ctx, 0);

	return failed == 0 ? bpf_redirect(ctx->ifindex, 0) : failed < 0 ? TC_DROP : TC_NEXT;
}

char _license[] SEC("license") = "Apache-2.0";
