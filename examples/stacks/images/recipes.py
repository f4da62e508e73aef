"""What each image holds. Data only; assemble.py turns it into archives.

packages  Debian packages, taken with everything they depend on
without   of that closure, packages that only serve to install, administer or document the others
only      of a package, just these paths
files     path -> (mode, owner, text)
folders   path -> (mode, owner)
links     path -> target
config    the image configuration's `config` object
"""

# Dependencies of maintainer scripts, of package management, of features that these images do not use (just-in-time
# compilation in PostgreSQL alone is 120 MB).
INSTALLERS = {
    "adduser", "debconf", "dpkg", "gcc-12-base", "init-system-helpers", "install-info", "iproute2", "libllvm14",
    "libpam-modules", "libpam-modules-bin", "libpam-runtime", "libperl5.36", "libz3-4", "locales", "libc-l10n", "lsb-base",
    "mawk", "openssl", "passwd", "perl", "perl-base", "perl-modules-5.36", "postgresql-client-common", "postgresql-common",
    "readline-common", "sensible-utils", "ssl-cert", "sysvinit-utils", "tar", "ucf", "usrmerge", "libsystemd-shared",
    "libcap2-bin", "libfile-find-rule-perl", "libjson-perl", "libnumber-compare-perl", "libtext-glob-perl", "netbase-doc",
    "libnginx-mod-http-echo", "libsemanage2", "libsemanage-common", "libsepol2", "login", "debianutils", "libdb5.3",
}

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
redis:x:101:101::/data:/usr/sbin/nologin
postgres:x:102:102::/var/lib/postgresql:/bin/sh
app:x:1000:1000::/home/app:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""

GROUP = """\
root:x:0:
daemon:x:1:
adm:x:4:app
tty:x:5:
mail:x:8:
www-data:x:33:
staff:x:50:app
redis:x:101:
postgres:x:102:
app:x:1000:
nogroup:x:65534:
"""

# Commands that busybox lends where coreutils has none.
BUSYBOX = """awk clear cmp diff egrep fgrep find free grep gunzip gzip hostname httpd ifconfig ip kill less
 mount nc netstat nslookup pgrep ping ping6 pkill ps route sed tar telnet top traceroute umount uptime vi wget which xargs
 setsid""".split()

BASE = {
    "packages": ["base-files", "coreutils", "dash", "libc-bin", "busybox-static"],
    "files": {
        "etc/passwd": (0o644, 0, PASSWD),
        "etc/group": (0o644, 0, GROUP),
        "etc/nsswitch.conf": (0o644, 0, "passwd: files\ngroup: files\nhosts: files dns\n"),
        "etc/hostname": (0o644, 0, ""),
        "etc/hosts": (0o644, 0, ""),
        "etc/resolv.conf": (0o644, 0, ""),
    },
    "folders": {
        "dev": (0o755, 0), "proc": (0o555, 0), "sys": (0o555, 0), "root": (0o700, 0), "tmp": (0o1777, 0),
        "run": (0o755, 0), "var/tmp": (0o1777, 0), "home/app": (0o755, 1000), "mnt": (0o755, 0),
    },
    "links": {f"usr/bin/{name}": "busybox" for name in BUSYBOX} | {"var/run": "/run"},
}

TOOLS = {
    "packages": ["curl"],
    "config": {"Cmd": ["sh"]},
}

NGINX_CONF = """\
user www-data;
worker_processes 2;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 1024; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /dev/stdout;
    sendfile on;
    include /etc/nginx/conf.d/*.conf;
}
"""

NGINX_DEFAULT = """\
server {
    listen 80 default_server;
    root /usr/share/nginx/html;
}
"""

NGINX = {
    "packages": ["nginx-light"],
    "files": {
        "etc/nginx/nginx.conf": (0o644, 0, NGINX_CONF),
        "etc/nginx/conf.d/default.conf": (0o644, 0, NGINX_DEFAULT),
        "usr/share/nginx/html/index.html": (0o644, 0, "<!doctype html><title>nginx</title><h1>It works.</h1>\n"),
    },
    "folders": {"var/lib/nginx": (0o755, 33), "var/log/nginx": (0o755, 33), "var/www": (0o755, 0)},
    "config": {
        "Cmd": ["nginx", "-g", "daemon off;"],
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGQUIT",
    },
}

REDIS_CONF = """\
bind * -::*
protected-mode no
dir /data
"""

# `redis-server` and bare options get the configuration file first, as options on the command line win over it.
REDIS_ENTRYPOINT = """\
#!/bin/sh
set -e
case ${1:-} in
-*) set -- redis-server "$@" ;;
esac
if [ "$1" = redis-server ]; then
    shift
    set -- redis-server /etc/redis/redis.conf "$@"
fi
exec "$@"
"""

REDIS = {
    "packages": ["redis-server"],
    "files": {
        "etc/redis/redis.conf": (0o644, 0, REDIS_CONF),
        "usr/local/bin/entrypoint": (0o755, 0, REDIS_ENTRYPOINT),
    },
    "folders": {"data": (0o755, 101)},
    "config": {
        "User": "redis",
        "WorkingDir": "/data",
        "Entrypoint": ["entrypoint"],
        "Cmd": ["redis-server"],
        "ExposedPorts": {"6379/tcp": {}},
        "Volumes": {"/data": {}},
    },
}

# POSTGRES_PASSWORD (or POSTGRES_PASSWORD_FILE), POSTGRES_USER, POSTGRES_DB as the well-known image reads them. The
# server of the initialisation listens on no address, so that a health check by TCP cannot see it too early.
POSTGRES_ENTRYPOINT = """\
#!/bin/sh
set -eu
case ${1:-} in
-*) set -- postgres "$@" ;;
esac
if [ "$1" != postgres ]; then
    exec "$@"
fi

if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /run/postgresql
    chown postgres:postgres "$PGDATA" /run/postgresql
    exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi

initialise() {
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
        POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
    fi
    if [ -z "${POSTGRES_PASSWORD:-}" ]; then
        echo "set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE for a new database" >&2
        exit 1
    fi
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    # What an initialisation left half done is no database.
    find "$PGDATA" -mindepth 1 -maxdepth 1 -exec rm -rf {} +
    secret=$(mktemp)
    printf '%s\\n' "$POSTGRES_PASSWORD" >"$secret"
    initdb --username="$user" --pwfile="$secret" --encoding=UTF8 --locale=C.UTF-8 --auth-host=scram-sha-256 \\
        --auth-local=trust >/dev/null
    rm -f "$secret"
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w -s start
    if [ "$database" != postgres ]; then
        psql -q -v ON_ERROR_STOP=1 -U "$user" -d postgres -v name="$database" <<'SQL'
CREATE DATABASE :"name";
SQL
    fi
    for file in /docker-entrypoint-initdb.d/*.sql; do
        [ -e "$file" ] || continue
        psql -q -v ON_ERROR_STOP=1 -U "$user" -d "$database" -f "$file"
    done
    pg_ctl -D "$PGDATA" -m fast -w -s stop
    touch "$PGDATA/initialised"
}

umask 077
[ -e "$PGDATA/initialised" ] || initialise
exec "$@" -c listen_addresses='*'
"""

POSTGRESQL = {
    "packages": ["postgresql-15", "tzdata", "util-linux"],
    "only": {"util-linux": ["usr/bin/setpriv"]},
    "files": {"usr/local/bin/entrypoint": (0o755, 0, POSTGRES_ENTRYPOINT)},
    "folders": {
        "var/lib/postgresql": (0o755, 102),
        "var/lib/postgresql/data": (0o700, 102),
        "run/postgresql": (0o775, 102),
        "docker-entrypoint-initdb.d": (0o755, 0),
    },
    "config": {
        "Env": [f"PATH=/usr/lib/postgresql/15/bin:{SEARCH_PATH}", "PGDATA=/var/lib/postgresql/data", "LANG=C.UTF-8"],
        "Entrypoint": ["entrypoint"],
        "Cmd": ["postgres"],
        "ExposedPorts": {"5432/tcp": {}},
        "StopSignal": "SIGINT",
        "Volumes": {"/var/lib/postgresql/data": {}},
    },
}

IMAGES = {"tools": TOOLS, "nginx": NGINX, "redis": REDIS, "postgresql": POSTGRESQL}
