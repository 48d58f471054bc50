/* Codes of core/reasons.py that the connect-time programs store and count; a test compares the two lists. */
#ifndef SKEDGE_REASONS_H
#define SKEDGE_REASONS_H

#define REASON_NONE 0
#define REASON_NO_WORKLOAD 1
#define REASON_SOURCE_BOUND 2
#define REASON_TABLE_FULL 3
#define REASON_DRAINED 11
#define REASON_SUSPENDED 13
#define REASON_NO_PORT 14
#define REASON_NO_FAMILY 15
#define REASON_AFFINITY 16
#define REASONS 128

#endif
