/* Preloaded into an instance: its wall clock is the machine's plus the seconds in the file $STEP_CLOCK_FILE (a 64-bit
 * integer in host order), which a test changes while the instance runs.  All other clocks are left alone.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t step(void)
{
	static const volatile int64_t *seconds;

	if (!seconds) {
		const char *path = getenv("STEP_CLOCK_FILE");
		int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
		void *mapped;

		if (file < 0)
			abort();
		mapped = mmap(NULL, sizeof(*seconds), PROT_READ, MAP_SHARED, file, 0);
		close(file);
		if (mapped == MAP_FAILED)
			abort();
		seconds = mapped;
	}
	return *seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int failed = (int)syscall(SYS_clock_gettime, clock, now);

	if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += step();
	return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;

	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &precise))
		return -1;
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *result)
{
	struct timespec precise;

	if (clock_gettime(CLOCK_REALTIME, &precise))
		return -1;
	if (result)
		*result = precise.tv_sec;
	return precise.tv_sec;
}
