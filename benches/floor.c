/* The kernel's floor of one container: new namespaces, an overlay as root, exec, exit. usage: floor LOWER UPPER WORK MERGED PROGRAM ARG... */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 6) return 2;
    int flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP | SIGCHLD;
    pid_t child = syscall(SYS_clone, flags, 0, 0, 0, 0);
    if (child < 0) { perror("clone"); return 1; }
    if (child == 0) {
        char options[4096];
        snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", argv[1], argv[2], argv[3]);
        if (mount(0, "/", 0, MS_REC | MS_PRIVATE, 0) || mount("overlay", argv[4], "overlay", 0, options)) _exit(3);
        if (chdir(argv[4]) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/")) _exit(4);
        if (mount("proc", "/proc", "proc", 0, 0)) _exit(5);
        execv(argv[5], argv + 5);
        _exit(127);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
