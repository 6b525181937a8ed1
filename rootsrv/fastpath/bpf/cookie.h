/* DNS cookies: SipHash-2-4 server cookies (RFC 7873, RFC 9018), octet for octet as rootsrv/answer/cookies.py. */

#define COOKIE_OPTION_SIZE 24
#define COOKIE_VERSION 1
#define COOKIE_RENEW_AFTER 1800 /* seconds, RFC 9018 section 4.3 */
#define COOKIE_LIFETIME 3600
#define COOKIE_FUTURE 300

#define ROTATE(x, b) ((x) << (b) | (x) >> (64 - (b)))

#define SIP_ROUND                                                                                                      \
	do {                                                                                                           \
		v0 += v1; v2 += v3; v1 = ROTATE(v1, 13); v3 = ROTATE(v3, 16);                                          \
		v1 ^= v0; v3 ^= v2; v0 = ROTATE(v0, 32);                                                               \
		v2 += v1; v0 += v3; v1 = ROTATE(v1, 17); v3 = ROTATE(v3, 21);                                          \
		v1 ^= v2; v3 ^= v0; v2 = ROTATE(v2, 32);                                                               \
	} while (0)

/* SipHash-2-4 of client cookie, version, reserved octets, timestamp and client address, which the caller has put into
 * siphash_words with the final word (Aumasson & Bernstein 2012); the result is left in siphash_k0.
 */
STEP siphash(struct scratch *s)
{
	if (!s)
		return 0;

	uint64_t v0 = 0x736f6d6570736575 ^ s->siphash_k0, v1 = 0x646f72616e646f6d ^ s->siphash_k1;
	uint64_t v2 = 0x6c7967656e657261 ^ s->siphash_k0, v3 = 0x7465646279746573 ^ s->siphash_k1;
	uint32_t words = s->family == IPV4 ? 3 : 5;

	for (uint32_t i = 0; i < 5; i++) {
		if (i >= words)
			break;
		uint64_t word = s->siphash_words[i];
		v3 ^= word;
		SIP_ROUND;
		SIP_ROUND;
		v0 ^= word;
	}
	v2 ^= 0xff;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	s->siphash_k0 = v0 ^ v1 ^ v2 ^ v3;
	return 0;
}

/* The server cookie's hash with secret number *number* of the current set, for the words that are in place. */
static __always_inline uint64_t hash_with(struct scratch *s, uint32_t set, uint64_t number)
{
	uint64_t selected = set;

	BOUND(selected, 1);
	BOUND(number, MAX_SECRETS - 1);
	s->siphash_k0 = control.secrets[selected][number].k0;
	s->siphash_k1 = control.secrets[selected][number].k1;
	siphash(s);
	return s->siphash_k0;
}

/* Writes our COOKIE option's data at *opt_at* of s->opt; says in cookie_is_good whether the server cookie that came was. */
STEP write_cookie(struct scratch *s, uint32_t opt_at)
{
	if (!s)
		return PASS_COOKIE;

	uint64_t out = opt_at;
	BOUND(out, OPT_ROOM - 1);
	uint64_t set = READ_ONCE(control.secret_set);
	BOUND(set, 1);
	uint32_t count = control.secret_count[set];
	uint32_t now = control.wall_seconds;
	uint64_t client = LOAD64(message_at(s, s->cookie_at));
	uint64_t head = LOAD64(message_at(s, s->cookie_at + 8)); /* version, reserved, timestamp */
	uint64_t theirs = LOAD64(message_at(s, s->cookie_at + 16));

	s->siphash_words[0] = client;
	if (s->family == IPV4) {
		s->siphash_words[2] = (uint32_t)s->source[0] | 20ULL << 56;
	} else {
		s->siphash_words[2] = s->source[0];
		s->siphash_words[3] = s->source[1];
		s->siphash_words[4] = 32ULL << 56;
	}

	s->cookie_is_good = 0;
	uint64_t hash = 0;
	if (s->cookie_size == COOKIE_OPTION_SIZE && (head & 0xff) == COOKIE_VERSION) {
		int32_t age = now - bpf_ntohl(head >> 32); /* serial arithmetic (RFC 1982) */
		if (age >= -COOKIE_FUTURE && age <= COOKIE_LIFETIME) {
			s->siphash_words[1] = head;
			hash = hash_with(s, set, 0);
			if (hash == theirs) {
				s->cookie_is_good = 1;
				if (age < COOKIE_RENEW_AFTER)
					goto write;
			} else if (control.require_server_cookie) {
				/* Only then does it matter whether a previous secret made it. */
				for (uint32_t i = 1; i < MAX_SECRETS; i++) {
					if (i >= count)
						break;
					if (hash_with(s, set, i) == theirs) {
						s->cookie_is_good = 1;
						break;
					}
				}
			}
		}
	}
	head = COOKIE_VERSION | (uint64_t)bpf_htonl(now) << 32;
	s->siphash_words[1] = head;
	hash = hash_with(s, set, 0);
write:
	*(uint64_t *)(s->opt + out) = client;
	*(uint64_t *)(s->opt + out + 8) = head;
	*(uint64_t *)(s->opt + out + 16) = hash;
	return control.require_server_cookie && !s->cookie_is_good ? PASS_COOKIE : 0;
}
