//! The examples below the long help of the main commands.

pub const STACK: &str = "\
Examples:
  stack apply stack.yaml                 make the host be as the file says
  stack plan                             what apply would do with the file of this folder
  stack ps                               what runs
  stack logs -f hello                    what all containers of the stack `hello` write
  stack exec -it web sh                  a shell in a container
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

pub const CREATE: &str = "\
Examples:
  stack create --name web nginx          as `stack run` makes it; `stack start web` starts it
  stack cp site.conf web:/etc/nginx/conf.d/
  stack start -a web";

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
  stack logs                             all of the stack of this folder
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

pub const STATUS: &str = "\
Examples:
  stack status                           whether the stack of this folder is as its file says
  stack status shop.yaml || stack apply shop.yaml
                                         only where something is to be done";

pub const VALIDATE: &str = "\
Examples:
  stack validate                         the file of this folder, or of one above
  stack validate compose.yaml prod.yaml  both together, as `apply` would read them
  stack validate --format json           for editors and CI: every problem with its place";

pub const ATTACH: &str = "\
Examples:
  stack attach web                       what it writes from now on; Ctrl-C is passed on to it
  stack attach --no-stdin --sig-proxy=false web
                                         look only";

pub const STATS: &str = "\
Examples:
  stack stats                            all that run, until Ctrl-C
  stack stats --no-stream web            once
  stack stats --format '{{.Name}} {{.MemUsage}}'";

pub const TOP: &str = "\
Examples:
  stack top web
  stack top web -o pid,user,rss,args     other columns, as ps(1) names them
  stack top web aux
  stack top --format json web";

pub const PORT: &str = "\
Examples:
  stack port web                         80/tcp -> 127.0.0.1:8080
  stack port web 80                      127.0.0.1:8080";

pub const START: &str = "\
Examples:
  stack start web cache
  stack start -a job                     stay with it until it ends, and exit with its code";

pub const STOP: &str = "\
Examples:
  stack stop web                         its own signal, and after its own time (10 s) by force
  stack stop -t 60 database              more time
  stack stop -s INT web                  another signal";

pub const RESTART: &str = "\
Examples:
  stack restart                          all of the stack of this folder
  stack restart web                      a container, or a service
  stack restart -t 60 database           more time to end";

pub const KILL: &str = "\
Examples:
  stack kill web
  stack kill -s HUP web                  to make it read its configuration again";

pub const PAUSE: &str = "\
Examples:
  stack pause web                        its processes get no time until `stack unpause web`";

pub const UNPAUSE: &str = "\
Examples:
  stack unpause web";

pub const WAIT: &str = "\
Examples:
  stack wait job                         prints its exit code when it has ended";

pub const RM: &str = "\
Examples:
  stack rm web
  stack rm -f web                        also while it runs
  stack rm -v web                        with the volumes that only it has";

pub const BUILD: &str = "\
Examples:
  stack build -t shop/web .              the Dockerfile of this folder
  stack build -t shop/web --target test --build-arg VERSION=2 ./web
  stack build --secret id=token,src=token.txt .
                                         a file that RUN --mount=type=secret,id=token can read";

pub const PULL: &str = "\
Examples:
  stack pull nginx                       docker.io/library/nginx:latest
  stack pull registry.example.com/shop/web:2.1
  stack pull --platform linux/arm64 alpine
  stack pull --update                    what the tags of this folder's stack stand for now goes into stack.lock
  stack pull --update shop/stack.yaml";

pub const PUSH: &str = "\
Examples:
  stack push registry.example.com/shop/web:2.1
  stack push shop/web registry.example.com/shop/web:2.1
                                         under another name than it has here";

pub const RMI: &str = "\
Examples:
  stack rmi shop/web:2.0";

pub const TAG: &str = "\
Examples:
  stack tag shop/web:2.1 registry.example.com/shop/web:2.1";

pub const HISTORY: &str = "\
Examples:
  stack history                          the generations of the stack of this folder's file
  stack -p shop history --format json    of the stack `shop`, for programs
  stack history shop/web                 how this image was made
  stack history --no-trunc shop/web      with commands in full";

pub const SAVE: &str = "\
Examples:
  stack save -o web.tar shop/web         for `stack load` and `docker load`
  stack save --format oci-archive -o web.oci.tar shop/web";

pub const LOAD: &str = "\
Examples:
  stack load -i web.tar
  stack load < web.tar";

pub const IMPORT: &str = "\
Examples:
  stack import rootfs.tar tools:1
  stack import ./rootfs tools:1          a directory";

pub const COMMIT: &str = "\
Examples:
  stack commit web web:patched
  stack commit -m \"with curl\" -c 'CMD [\"serve\"]' web web:2";

pub const EXPORT: &str = "\
Examples:
  stack export -o web.tar web
  stack export web | tar t               what files there are";

pub const LOGIN: &str = "\
Examples:
  stack login registry.example.com       asks for name and password
  stack login -u me --password-stdin registry.example.com < token";

pub const LOGOUT: &str = "\
Examples:
  stack logout registry.example.com";

pub const DOCTOR: &str = "\
Examples:
  stack doctor                           exit 1 where containers can't run
  stack doctor --format json             for programs";

pub const OCI_RUNTIME: &str = "\
Examples:
  stack oci-runtime run --bundle DIR ID     a container from a bundle, to its end
  stack oci-runtime create --bundle DIR ID
  stack oci-runtime start ID
  stack oci-runtime delete --force ID";

pub const VERSION: &str = "\
Examples:
  stack version
  stack version --format '{{.version}}'";

pub const RENAME: &str = "\
Examples:
  stack rename whoami-3fa2c1 web         it runs on, and is found as `web` from now on";

pub const UPDATE: &str = "\
Examples:
  stack update --memory 1g --cpus 1.5 web
  stack update --restart unless-stopped web cache

A container of a stack is changed back by the next `stack apply`: there the file is what counts.";

pub const DIFF: &str = "\
Examples:
  stack diff web                         compared with its image; volumes are not looked at
  stack diff 3 5                         what the fifth generation of the stack changed since the third";

pub const CONFIG: &str = "\
Examples:
  stack config                           one file of all, as `apply` reads it
  stack config --services                names only, for scripts
  stack config --format json             for programs";

pub const CP: &str = "\
Examples:
  stack cp web:/etc/nginx/nginx.conf .   to this host
  stack cp ./html/. web:/srv/html        what is in a folder, not the folder
  stack cp web:/var/log - | tar t        as a tar

A folder is copied into one that is there, and becomes one that is not. Volumes are a part of a container's files, also
while it is stopped.";

pub const EVENTS: &str = "\
Examples:
  stack events                           from now on, until Ctrl-C
  stack events --since 1h --until 0s     the last hour
  stack events --filter stack=shop --filter event=die --format json

Filters: container, event, image, label, name, network, service, stack, type, volume. Containers: create, start, die, oom,
kill, stop, pause, unpause, rename, update, destroy, health_status; networks: create, connect, disconnect, destroy;
volumes: create, destroy; images: pull, import, tag, untag, delete. The last megabyte or two since the last boot is remembered.";

pub const SCHEMA: &str = "\
Examples:
  stack schema > stack.schema.json

An editor that speaks yaml-language-server then completes and checks a stack.yaml whose first line is
# yaml-language-server: $schema=stack.schema.json";

pub const ROLLBACK: &str = "\
Examples:
  stack rollback                         the generation before the last, of the stack of this folder's file
  stack rollback 3 --dry-run             what going back to the third would do
  stack -p shop rollback 3               of the stack `shop`, wherever its file is
  stack rollback 3 --with-data --yes=volumes   and the data of its volumes, as `apply --snapshot` kept them

The files still say what they said: the next apply goes forward again, until they are changed.
Secrets, bind-mounted files and volumes are no part of a generation: they stay as they are, and that is said.";

pub const WHY: &str = "\
Examples:
  stack why                              all that was done to the stack of this folder's file
  stack why web                          to the containers of the service `web`
  stack why network/back -n 1            the last time that anything was done to it
  stack -p shop why --format json        for programs";
