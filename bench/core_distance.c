/* How far apart two cores are, for bench/distance.py: two threads hand one line of their caches to and fro. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

enum { LOOK_AT_CLOCK = 256, SPINS = 1000, PRIORITY = 2, MAX_SEEN = 4096 };

struct both {
	_Alignas(128) atomic_uint turn;   /* even: the first one's */
	_Alignas(128) atomic_uint over;
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static cpu_set_t only(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return set;
}

static void *answer(void *passed)
{
	struct both *both = passed;
	unsigned turn = 1;

	while (!atomic_load(&both->over)) {
		for (int i = 0; i < SPINS; i++)
			if (atomic_load_explicit(&both->turn, memory_order_acquire) == turn) {
				atomic_store_explicit(&both->turn, turn + 1, memory_order_release);
				turn += 2;
			}
	}
	return 0;
}

/* Nanoseconds from core *first* to *second* and back, of *rounds*; -1: that could not be tried, or took *within_ns*. */
double round_trip_ns(int first, int second, unsigned rounds, uint64_t within_ns)
{
	struct both both = {0};
	pthread_t other;
	pthread_attr_t there;
	cpu_set_t before, ours = only(first), theirs = only(second);
	double found = -1;

	if (pthread_getaffinity_np(pthread_self(), sizeof(before), &before) ||
	    pthread_setaffinity_np(pthread_self(), sizeof(ours), &ours))
		return -1;
	/* It begins on its core: on ours it would wait for us. */
	pthread_attr_init(&there);
	pthread_attr_setaffinity_np(&there, sizeof(theirs), &theirs);
	if (!pthread_create(&other, &there, answer, &both)) {
		uint64_t began = now_ns(), until = began + within_ns, start = 0;
		unsigned turn = 0, late = 0;

		/* The first tenth is not counted: the other thread is to have come to its core. */
		for (unsigned round = 0; round < rounds && !late; round++) {
			if (round == rounds / 10)
				start = now_ns();
			atomic_store_explicit(&both.turn, turn + 1, memory_order_release);
			turn += 2;
			for (unsigned spins = 1; atomic_load_explicit(&both.turn, memory_order_acquire) != turn; spins++)
				if (spins % LOOK_AT_CLOCK == 0 && now_ns() > until) {
					late = 1;
					break;
				}
		}
		if (!late)
			found = (double)(now_ns() - start) / (rounds - rounds / 10);
		atomic_store(&both.over, 1);
		pthread_join(other, 0);
	}
	pthread_attr_destroy(&there);
	pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
	return found;
}

/* Looks again and again while others have the cores: both threads go before them for some microseconds. */
struct watch {
	pthread_t thread;
	atomic_uint over, seen;
	int first, second;
	unsigned rounds;
	uint64_t every_ns, within_ns;
	double round_trips[MAX_SEEN];
};

static void *keep_looking(void *passed)
{
	struct watch *watch = passed;
	struct sched_param go_first = {.sched_priority = PRIORITY};
	struct timespec pause = {watch->every_ns / 1000000000, watch->every_ns % 1000000000};

	pthread_setschedparam(pthread_self(), SCHED_FIFO, &go_first);
	while (!atomic_load(&watch->over) && watch->seen < MAX_SEEN) {
		/* The other thread has our priority by inheritance. */
		double found = round_trip_ns(watch->first, watch->second, watch->rounds, watch->within_ns);

		if (found > 0)
			watch->round_trips[watch->seen++] = found;
		nanosleep(&pause, 0);
	}
	return 0;
}

struct watch *watch_begin(int first, int second, unsigned rounds, uint64_t every_ns, uint64_t within_ns)
{
	struct watch *watch = calloc(1, sizeof(*watch));

	watch->first = first;
	watch->second = second;
	watch->rounds = rounds;
	watch->every_ns = every_ns;
	watch->within_ns = within_ns;
	if (pthread_create(&watch->thread, 0, keep_looking, watch)) {
		free(watch);
		return 0;
	}
	return watch;
}

/* How many round trips were seen, put into *round_trips* (MAX_SEEN of them at most). */
unsigned watch_end(struct watch *watch, double *round_trips)
{
	unsigned seen;

	atomic_store(&watch->over, 1);
	pthread_join(watch->thread, 0);
	seen = watch->seen;
	for (unsigned i = 0; i < seen; i++)
		round_trips[i] = watch->round_trips[i];
	free(watch);
	return seen;
}
