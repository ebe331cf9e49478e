/* Preloaded into the daemon under test: while the file named by POSTKEEP_FAULT_SWITCH exists,
 * every attempt to make a file below POSTKEEP_FAULT_FOLDER durable fails with EIO.
 * Each call that was seen is counted in POSTKEEP_FAULT_COUNT, one byte a call,
 * so that a test can tell a daemon that survives from one that never syncs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int below(int fd)
{
    const char *folder = getenv("POSTKEEP_FAULT_FOLDER");
    char link[64], path[4096];
    ssize_t length;
    if (folder == NULL)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = '\0';
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int fails(int fd)
{
    const char *on = getenv("POSTKEEP_FAULT_SWITCH");
    const char *count = getenv("POSTKEEP_FAULT_COUNT");
    struct stat found;
    if (!below(fd))
        return 0;
    if (count != NULL) {
        int log = open(count, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (log >= 0) {
            if (write(log, "s", 1) < 0) { /* the count is a help, not a promise */ }
            close(log);
        }
    }
    return on != NULL && stat(on, &found) == 0;
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

int fsync(int fd)
{
    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    return REAL("fsync", int (*)(int))(fd);
}

int fdatasync(int fd)
{
    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    return REAL("fdatasync", int (*)(int))(fd);
}

int sync_file_range(int fd, off64_t offset, off64_t length, unsigned int flags)
{
    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    return REAL("sync_file_range", int (*)(int, off64_t, off64_t, unsigned int))(fd, offset, length, flags);
}
