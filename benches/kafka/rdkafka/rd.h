/* What librdkafka's example rdkafka_performance.c takes from librdkafka's own source tree, so that the example, which Debian
 * ships without that tree, can be compiled against the installed library. */
#ifndef ESKER_BENCH_RD_H
#define ESKER_BENCH_RD_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#define RD_UNUSED __attribute__((unused))
#define RD_FORMAT(...) __attribute__((format(__VA_ARGS__)))
#define RD_MAX(a, b) ((a) > (b) ? (a) : (b))
#define RD_MIN(a, b) ((a) < (b) ? (a) : (b))
#define rd_snprintf snprintf
#define rd_strdup strdup
#define rd_malloc malloc
#define rd_free free
#endif
