/* What the cgroup programs answer. */
#ifndef SKEDGE_SOCKET_VERDICTS_H
#define SKEDGE_SOCKET_VERDICTS_H

#define ALLOW 1
#define REFUSE 0

static __always_inline int connect_refuse(int reason)
{
    drops_v1.increment(reason);
    bpf_set_retval(-ERR_CONNREFUSED);
    return REFUSE;
}

#endif
