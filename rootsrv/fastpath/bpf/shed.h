/* Shed rules, and who is judged at all (rootsrv/admission/shed.py, gate.py); notes of queries (samples.py). */

static __always_inline struct block_key source_key(const struct scratch *s)
{
	struct block_key key = { .prefix_size = 128 };

	if (s->family == IPV4) {
		key.address[10] = 0xff;
		key.address[11] = 0xff;
		uint32_t source = s->source[0];
		__builtin_memcpy(key.address + 12, &source, 4);
	} else {
		__builtin_memcpy(key.address, s->source, 16);
	}
	return key;
}

static __always_inline const struct shed_rule *rule_in(uint64_t place)
{
	uint64_t set = READ_ONCE(admission.rule_set);

	BOUND(set, 1);
	BOUND(place, MAX_RULES - 1);
	return &admission.rules[set][place];
}

/* Whether the qname is at or below the name of the rule in *place*. */
STEP is_below(struct scratch *s, uint32_t place)
{
	if (!s)
		return 0;
	const struct shed_rule *rule = rule_in(place);
	uint64_t size = rule->name_size;

	if (size > s->name_size || size > MAX_NAME)
		return 0;
	uint64_t start = DNS_HEADER + (uint64_t)s->name_size - size;
	for (uint32_t i = 0; i < (MAX_NAME + 1) / 8; i++) {
		int64_t left = (int64_t)size - i * 8;
		if (left <= 0)
			break;
		uint64_t ours = lower_case(first_octets(LOAD64(message_at(s, start + i * 8)), left));
		if (ours != first_octets(LOAD64(rule->name + i * 8), left))
			return 0;
	}
	return label_starts(s, start);
}

/* Whether the rule in *place* is about the query. */
STEP rule_holds(struct scratch *s, uint32_t place)
{
	if (!s)
		return 0;
	const struct shed_rule *rule = rule_in(place);
	uint32_t conditions = rule->conditions;

	if (!(conditions & RULE_IN_USE) || s->judged_at >= rule->until)
		return 0;
	if (conditions & BY_PREFIX) {
		uint64_t upper = s->source[0], lower = s->source[1];
		if (s->family == IPV4) {
			lower = upper << 32 | 0xffff0000;
			upper = 0;
		}
		if ((upper & rule->mask[0]) != rule->address[0] || (lower & rule->mask[1]) != rule->address[1])
			return 0;
	}
	uint16_t port = bpf_ntohs(s->source_port);
	if (conditions & BY_PORT && (port < rule->port_low || port > rule->port_high))
		return 0;
	if (conditions & BY_SIZE && (s->size < rule->size_low || s->size > rule->size_high))
		return 0;
	if (conditions & BY_QTYPE && s->qtype != rule->qtype)
		return 0;
	if (conditions & BY_OPT) {
		int holds = rule->opt == OPT_ABSENT ? !s->has_opt : rule->opt == OPT_PRESENT ? s->has_opt != 0 :
			    rule->opt == OPT_DO ? s->do_flag != 0 : !s->do_flag;
		if (!holds)
			return 0;
	}
	return conditions & BY_SUFFIX ? is_below(s, place) : 1;
}

/* What the rules say: enum shed_action, or -1. */
STEP ask_rules(struct scratch *s)
{
	if (!s)
		return -1;
	uint64_t live = s->live;
	int action = -1;

	BOUND(live, 1);
	for (uint32_t place = 0; place < MAX_RULES; place++) {
		if (!rule_holds(s, place))
			continue;
		const struct shed_rule *rule = rule_in(place);
		int dry = rule->conditions & RULE_DRY;
		if (!dry && action >= 0)
			continue;
		s->counters[live].rules[place][0]++;
		s->counters[live].rules[place][1] += s->cookie_is_good != 0;
		if (!dry)
			action = rule->action;
	}
	return action;
}

/* Puts a response without an answer in place of the one that was decided: header with TC, question, OPT. */
static __always_inline void leave_answer_out(struct scratch *s)
{
	uint16_t asked = bpf_ntohs(LOAD16(s->message + 2));

	s->reply_flags = bpf_htons(FLAG_QR | FLAG_TC | (asked & FLAG_RD));
	s->rcode = TRUNCATED;
	s->cut = 2;
	s->body_size = 0;
	s->first.size = s->own.size = s->last.size = 0;
	s->pointer_count = 0;
	s->ancount = s->nscount = 0;
	s->arcount = bpf_htons(s->has_opt);
	s->response_size = s->question_end + s->opt_size;
	sum_up(s, 0);
}

/* Notes the query: one in so many. */
STEP note(struct scratch *s, uint32_t outcome)
{
	if (!s)
		return 0;
	uint64_t live = s->live, name_size = s->name_size, start = DNS_HEADER;

	BOUND(live, 1);
	s->not_noted = 0;
	s->counters[live].looked_at += admission.note_every;
	uint32_t key = bpf_get_smp_processor_id() * NOTES + (s->counters[live].noted & (NOTES - 1));
	struct query_note *note = bpf_map_lookup_elem(&query_notes, &key);
	if (!note)
		return 0;
	s->counters[live].noted++;
	__builtin_memcpy(note->source, s->source, 16);
	note->source_port = s->source_port;
	note->qtype = s->qtype;
	note->query_size = s->size;
	note->family = s->family;
	note->flags = (s->has_opt ? NOTE_OPT : 0) | (s->do_flag ? NOTE_DO : 0) | (s->cookie_is_good ? NOTE_COOKIE : 0);
	note->name_size = name_size;
	note->rcode = s->rcode & 0xf;
	note->outcome = outcome;
	note->response_size = s->response_size;
	if (name_size > NOTE_NAME)
		start += name_size - NOTE_NAME;
	const uint8_t *name = message_at(s, start);
	for (uint32_t i = 0; i < NOTE_NAME; i += 8)
		*(uint64_t *)(note->name + i) = LOAD64(name + i);
	return 0;
}

static __always_inline void maybe_note(struct scratch *s, uint32_t outcome)
{
	uint32_t every = admission.note_every;

	if (every && ++s->not_noted >= every)
		note(s, outcome);
}

/* What becomes of a query whose response is decided: enum note_outcome; the response may be without its answer then. */
STEP judge(struct scratch *s)
{
	if (!s)
		return NOTE_ANSWERED;
	uint64_t live = s->live, family = s->family;
	BOUND(live, 1);
	BOUND(family, 1);
	struct counters *counters = &s->counters[live];

	s->judged_at = live ? s->boottime : admission.test_clock;
	if (!s->judged_at)
		return NOTE_ANSWERED; /* a test run */
	if (s->judged_at >= admission.judging_until)
		return NOTE_ANSWERED; /* the last rule is over, and its owner has not seen that yet */
	struct block_key key = source_key(s);
	if (bpf_map_lookup_elem(&exempt, &key))
		return NOTE_ANSWERED;
	counters->judged[0]++;
	counters->judged[1] += s->cookie_is_good != 0;

	int action = ask_rules(s);
	if (action == SHED_DROP) {
		counters->shed_dropped++;
		return NOTE_DROPPED;
	}
	if (action == SHED_TC || (action == SHED_TC_UNLESS_COOKIE && !s->cookie_is_good)) {
		counters->shed[family]++;
		leave_answer_out(s);
		return NOTE_SHED;
	}
	if (!admitting.limits || admission.limit_mode == LIMITS_OFF || s->cookie_is_good || !is_over(s))
		return NOTE_ANSWERED;
	if (admission.limit_mode == LIMITS_ON) {
		counters->limited[family]++;
		leave_answer_out(s);
		return NOTE_LIMITED;
	}
	counters->limited[2 + family]++;
	return NOTE_ANSWERED;
}

/* Limits, rules and notes: whether the query is dropped. */
static __always_inline int turn_away(struct scratch *s, int live)
{
	uint32_t outcome = admission.judging_until ? judge(s) : NOTE_ANSWERED;

	PATHS_MEET();
	if (live)
		maybe_note(s, outcome);
	return outcome == NOTE_DROPPED;
}
