//! The examples below the long help of the main commands.

pub const STACK: &str = "\
Examples:
  stack apply stack.yaml                 make the host be as the file says
  stack plan                             what apply would do with the file of this folder
  stack ps                               what runs
  stack logs -f hello                    what all containers of the stack `hello` write
  stack exec -it hello-counter-1 sh      a shell in a container
  stack run --rm builtin:whoami id       one container, gone when its program ends
  stack doctor                           what this host lacks

Every command explains itself: `stack COMMAND --help`.";

pub const APPLY: &str = "\
Examples:
  stack apply                            the file of this or a parent folder
  stack apply shop.yaml                  this file
  stack apply compose.yaml prod.yaml     the second overrides the first, as in Compose
  stack apply --wait --wait-timeout 60   return once everything is up and healthy, or fail after a minute
  stack apply --plan saved.json          exactly what `stack plan -o saved.json` has shown
  stack apply --target web               only `web` and what it needs
  generate | stack apply -p shop -       a file from standard input

Exit codes: 0 the host is as declared, 1 something failed or the file is wrong, 130 interrupted.
An interrupted or failed apply loses nothing: the next one goes on from there.";

pub const PLAN: &str = "\
Examples:
  stack plan                             what apply would do, a line a resource, with the cause
  stack plan -o saved.json               keep it; `stack apply --plan saved.json` does that and nothing else
  stack plan --detailed-exitcode         exit 0 nothing to do, 2 changes pending, 1 error
  stack plan --format json               for programs

The first sign of a line: + create, ~ change in place or restart, ± replace, - remove, ! refused.";

pub const DESTROY: &str = "\
Examples:
  stack destroy                          the stack of this folder's file; its volumes stay
  stack destroy hello                    the stack of this name, whether or not its file is at hand
  stack destroy hello --volumes          its volumes too, after a question
  stack destroy hello --volumes --yes=volumes
                                         the same, where nobody can be asked";

pub const WATCH: &str = "\
Examples:
  stack watch stack.yaml                 converge now and at every change, until Ctrl-C or SIGTERM
  stack watch --interval 5 stack.yaml    look at the host every five seconds, too

The containers run on when watching ends.";

pub const RUN: &str = "\
Examples:
  stack run --rm builtin:whoami id       run, show the output, remove
  stack run -it --rm debian sh           a shell with a terminal; Ctrl-P Ctrl-Q leaves it running
  stack run -d --name web -p 127.0.0.1:8080:80 nginx
                                         in the background, one port published
  stack run --rm -v data:/data -v $PWD:/src:ro alpine ls /data /src
                                         a volume, and a folder of this host

Exit codes: the program's own; 125 the engine failed, 126 the program can't be run, 127 there is no such program,
128+N it was ended by signal N.";

pub const EXEC: &str = "\
Examples:
  stack exec -it web sh                  a shell in the container
  stack exec web env                     what a process there has as its environment
  stack exec -u 1000 -w /tmp web id      as another user, in another folder

Exit codes: as with `stack run`; 1 when the container does not run.";

pub const PS: &str = "\
Examples:
  stack ps                               what runs
  stack ps -a --filter stack=shop        all containers of one stack
  stack ps --filter health=unhealthy --format '{{.Name}}'
  stack ps --format json                 for programs

Filters: ancestor, exited, expose, health, id, label, name, network, publish, service, stack, status, volume, before,
since.";

pub const LOGS: &str = "\
Examples:
  stack logs -f web                      one container, and what it writes from now on
  stack logs --tail 20 shop              the last lines of all containers of a stack
  stack logs --since 10m -t api worker   two services, with times";

pub const INSPECT: &str = "\
Examples:
  stack inspect web                      all that is known, as JSON
  stack inspect -f '{{.State.Status}} {{.State.ExitCode}}' web
  stack inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' web
  stack inspect --type volume data";

pub const IMAGES: &str = "\
Examples:
  stack images
  stack images 'nginx*'                  those of this name
  stack images --format '{{.Repository}}:{{.Tag}} {{.Size}}'

Filters: before, dangling, label, reference, since.";

pub const COMPLETION: &str = "\
Examples:
  stack completion bash > /etc/bash_completion.d/stack
  stack completion zsh  > \"${fpath[1]}/_stack\"
  stack completion fish > ~/.config/fish/completions/stack.fish";
