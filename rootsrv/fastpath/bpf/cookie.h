/* DNS cookies: SipHash-2-4 server cookies (RFC 7873, RFC 9018), octet for octet as rootsrv/answer/cookies.py. */

#define COOKIE_OPTION_HEADER COOKIE_HEADER(COOKIE_OPTION_SIZE)
/* The ninth to fifteenth octet of an OPT record with this option alone: of the TTL, length of RDATA, code, length. */
#define OPT_WITH_COOKIE ((uint64_t)bpf_htons(4 + COOKIE_OPTION_SIZE) << 8 | (uint64_t)COOKIE_OPTION_HEADER << 24)
#define COOKIE_VERSION 1
#define COOKIE_RENEW_AFTER 1800 /* seconds, RFC 9018 section 4.3 */
#define COOKIE_LIFETIME 3600
#define COOKIE_FUTURE 300

/* The server cookie's hash with secret number *number* of set *set*: SipHash-2-4 of client
 * cookie, version, reserved octets, timestamp and client address.
 */
static __always_inline uint64_t cookie_hash(const struct scratch *s, uint64_t set, uint64_t number, uint64_t client,
					    uint64_t head)
{
	BOUND(set, 1);
	BOUND(number, MAX_SECRETS - 1);
	struct sip_state state = sip_start(&control.secrets[set][number].k0);

	sip_take(&state, client);
	sip_take(&state, head);
	if (s->family == IPV4) {
		sip_take(&state, (uint32_t)s->source[0] | 20ULL << 56);
	} else {
		sip_take(&state, s->source[0]);
		sip_take(&state, s->source[1]);
		sip_take(&state, 32ULL << 56);
	}
	return sip_end(&state);
}

/* Whether a secret before the current one made the server cookie that came. */
STEP is_cookie_of_before(struct scratch *s)
{
	if (!s)
		return 0;
	uint64_t set = READ_ONCE(control.secret_set);
	BOUND(set, 1);
	uint64_t client = LOAD64(message_at(s, s->cookie_at)), head = LOAD64(message_at(s, s->cookie_at + 8));
	uint64_t theirs = LOAD64(message_at(s, s->cookie_at + 16));

	for (uint32_t i = 1; i < MAX_SECRETS; i++) {
		if (i >= control.secret_count[set])
			break;
		if (cookie_hash(s, set, i, client, head) == theirs)
			return 1;
	}
	return 0;
}

/* Our COOKIE option's data into s->cookie; says in cookie_is_good whether the server cookie that came was. */
STEP make_cookie(struct scratch *s)
{
	if (!s)
		return PASS_COOKIE;

	uint64_t set = READ_ONCE(control.secret_set);
	BOUND(set, 1);
	uint32_t now = control.wall_seconds;
	uint64_t client = LOAD64(message_at(s, s->cookie_at));
	uint64_t head = LOAD64(message_at(s, s->cookie_at + 8)); /* version, reserved, timestamp */
	uint64_t theirs = LOAD64(message_at(s, s->cookie_at + 16));

	s->cookie_is_good = 0;
	s->cookie[0] = client;
	if (s->cookie_size == COOKIE_OPTION_SIZE && (head & 0xff) == COOKIE_VERSION) {
		int32_t age = now - bpf_ntohl(head >> 32); /* serial arithmetic (RFC 1982) */
		if (age >= -COOKIE_FUTURE && age <= COOKIE_LIFETIME) {
			if (cookie_hash(s, set, 0, client, head) == theirs) {
				s->cookie_is_good = 1;
				if (age < COOKIE_RENEW_AFTER) {
					s->cookie[1] = head;
					s->cookie[2] = theirs;
					return 0;
				}
			} else if (control.require_server_cookie || admission.judging_until) {
				/* Only then does it matter whether a previous secret made it. */
				s->cookie_is_good = is_cookie_of_before(s);
			}
		}
	}
	head = COOKIE_VERSION | (uint64_t)bpf_htonl(now) << 32;
	s->cookie[1] = head;
	s->cookie[2] = cookie_hash(s, set, 0, client, head);
	return control.require_server_cookie && !s->cookie_is_good ? PASS_COOKIE : 0;
}
