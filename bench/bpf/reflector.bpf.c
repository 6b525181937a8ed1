/* The limit for a responder in the kernel: turns a query around as a response of a fixed size, looks at nothing.
 *
 * Every UDP packet to port 53 is sent back with addresses and ports swapped, QR set, and zeros appended up to the size
 * that bench/engine_kernel.py stores in `settings`.  Checksums stay right: zeros add nothing, and what changes is known.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);     /* octets of the response's DNS message */
} settings SEC(".maps");

static __always_inline void add(__u16 *checksum, __u32 more)
{
	__u32 sum = (__u16)~bpf_ntohs(*checksum) + more;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*checksum = bpf_htons((__u16)~sum);
}

#define SWAP(type, a, b) do { type kept = (a); (a) = (b); (b) = kept; } while (0)

SEC("xdp")
int reflect(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;
	struct ethhdr *ethernet = (void *)data;
	struct udphdr *udp;
	__u32 key = 0, *octets = bpf_map_lookup_elem(&settings, &key);
	__u8 mac[6];

	if (!octets || (void *)(ethernet + 1) > (void *)end)
		return XDP_PASS;
	int is_ipv4 = ethernet->h_proto == bpf_htons(ETH_P_IP);
	if (!is_ipv4 && ethernet->h_proto != bpf_htons(ETH_P_IPV6))
		return XDP_PASS;
	udp = (void *)(data + ETH_HLEN + (is_ipv4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)));
	if ((__u8 *)(udp + 1) + 12 > end || udp->dest != bpf_htons(53))
		return XDP_PASS;
	__u32 old = bpf_ntohs(udp->len), growth = *octets + sizeof(*udp) > old ? *octets + sizeof(*udp) - old : 0;

	__builtin_memcpy(mac, ethernet->h_dest, 6);
	__builtin_memcpy(ethernet->h_dest, ethernet->h_source, 6);
	__builtin_memcpy(ethernet->h_source, mac, 6);
	if (is_ipv4) {
		struct iphdr *ip = (void *)(ethernet + 1);
		if (ip->protocol != IPPROTO_UDP)
			return XDP_PASS;
		SWAP(__u32, ip->saddr, ip->daddr);
		ip->tot_len = bpf_htons(bpf_ntohs(ip->tot_len) + growth);
		add(&ip->check, growth);
	} else {
		struct ipv6hdr *ip = (void *)(ethernet + 1);
		if (ip->nexthdr != IPPROTO_UDP)
			return XDP_PASS;
		SWAP(struct in6_addr, ip->saddr, ip->daddr);
		ip->payload_len = bpf_htons(bpf_ntohs(ip->payload_len) + growth);
	}
	SWAP(__u16, udp->source, udp->dest);
	udp->len = bpf_htons(old + growth);
	((__u8 *)(udp + 1))[2] |= 0x80; /* queries have QR clear */
	add(&udp->check, 2 * growth + 0x8000);
	if (growth && bpf_xdp_adjust_tail(ctx, growth))
		return XDP_DROP;
	return XDP_TX;
}

char LICENSE[] SEC("license") = "GPL";
