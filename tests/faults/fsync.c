/* fsync-fault SWITCH FOLDER COUNT COMMAND ARGUMENT...
 *
 * Runs COMMAND. While the file SWITCH exists, each of its attempts to make a file below FOLDER
 * durable (fsync, fdatasync, sync_file_range) fails with EIO. Each attempt that was seen adds one
 * byte to COUNT, so that a test can tell a program that survives from one that never syncs.
 *
 * The kernel asks (seccomp user notification), not the C library, so that programs which make
 * system calls themselves are reached, too. COMMAND keeps this process's id; the answering is done
 * by a child, which ends when the last process under the filter has ended. No privilege is needed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void fail(const char *what)
{
    perror(what);
    _exit(125);
}

static int below(pid_t pid, int fd, const char *folder)
{
    char link[64], path[4096];
    ssize_t length;
    snprintf(link, sizeof link, "/proc/%d/fd/%d", pid, fd);
    length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = '\0';
    return strncmp(path, folder, strlen(folder)) == 0;
}

static void answer(int listener, const char *on, const char *folder, int count)
{
    struct seccomp_notif question;
    struct seccomp_notif_resp reply;
    struct pollfd wait = {.fd = listener, .events = POLLIN};
    struct stat found;
    for (;;) {
        if (poll(&wait, 1, -1) < 0 && errno != EINTR)
            return;
        if ((wait.revents & POLLHUP) && !(wait.revents & POLLIN))
            return;
        memset(&question, 0, sizeof question);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &question) < 0)
            continue;
        memset(&reply, 0, sizeof reply);
        reply.id = question.id;
        reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
        if (below(question.pid, (int)question.data.args[0], folder)) {
            if (write(count, "s", 1) < 0)
                perror("count");
            if (stat(on, &found) == 0) {
                reply.flags = 0;
                reply.error = -EIO;
            }
        }
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &reply);
    }
}

static void give(int socket, int fd)
{
    char byte = 0, space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof(int));
    if (sendmsg(socket, &message, 0) < 0)
        fail("sendmsg");
}

static int take(int socket)
{
    char byte, space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    int fd;
    if (recvmsg(socket, &message, 0) <= 0 || CMSG_FIRSTHDR(&message) == NULL)
        _exit(125);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
    return fd;
}

int main(int argc, char **argv)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fsync, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fdatasync, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sync_file_range, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
    };
    struct sock_fprog filter = {.len = sizeof rules / sizeof rules[0], .filter = rules};
    int pair[2], listener, count;
    pid_t child;

    if (argc < 5) {
        fputs("usage: fsync-fault SWITCH FOLDER COUNT COMMAND ARGUMENT...\n", stderr);
        return 2;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        fail("socketpair");
    count = open(argv[3], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (count < 0)
        fail(argv[3]);
    child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        close(pair[0]);
        answer(take(pair[1]), argv[1], argv[2], count);
        _exit(0);
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        fail("no new privileges");
    listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
    if (listener < 0)
        fail("seccomp");
    give(pair[0], listener);
    close(listener);
    close(pair[0]);
    close(pair[1]);
    execv(argv[4], argv + 4);
    fail(argv[4]);
}
