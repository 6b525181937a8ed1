/* SipHash-2-4 (Aumasson & Bernstein 2012), for messages of whole words whose length is one of them or always the same. */

#define ROTATE(x, b) ((x) << (b) | (x) >> (64 - (b)))

#define SIP_ROUND                                                                                                      \
	do {                                                                                                           \
		v0 += v1; v2 += v3; v1 = ROTATE(v1, 13); v3 = ROTATE(v3, 16);                                          \
		v1 ^= v0; v3 ^= v2; v0 = ROTATE(v0, 32);                                                               \
		v2 += v1; v0 += v3; v1 = ROTATE(v1, 17); v3 = ROTATE(v3, 21);                                          \
		v1 ^= v2; v3 ^= v0; v2 = ROTATE(v2, 32);                                                               \
	} while (0)

struct sip_state {
	uint64_t v0, v1, v2, v3;
};

static __always_inline struct sip_state sip_start(const uint64_t *key)
{
	uint64_t k0 = key[0], k1 = key[1];

	return (struct sip_state){ 0x736f6d6570736575 ^ k0, 0x646f72616e646f6d ^ k1, 0x6c7967656e657261 ^ k0,
				   0x7465646279746573 ^ k1 };
}

static __always_inline void sip_take(struct sip_state *state, uint64_t word)
{
	uint64_t v0 = state->v0, v1 = state->v1, v2 = state->v2, v3 = state->v3 ^ word;

	SIP_ROUND;
	SIP_ROUND;
	*state = (struct sip_state){ v0 ^ word, v1, v2, v3 };
}

static __always_inline uint64_t sip_end(const struct sip_state *state)
{
	uint64_t v0 = state->v0, v1 = state->v1, v2 = state->v2 ^ 0xff, v3 = state->v3;

	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	return v0 ^ v1 ^ v2 ^ v3;
}
