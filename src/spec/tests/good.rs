//! Files that load: the golden form of their stacks.

use expect_test::expect;

use super::{brief, stack_of};

#[test]
fn a_small_native_file() {
    let stack = stack_of(&[(
        "stack.yaml",
        r#"
name: shop
images:
  app: {builtin: whoami}
  db: {pull: docker.io/library/postgres:17}
containers:
  db:
    image: db
    volumes: ["data:/var/lib/postgresql/data"]
    networks: [back]
    healthcheck: {test: ["CMD", "pg_isready"], interval: 5s, on_failure: restart}
  web:
    image: app
    depends_on: {db: {condition: service_healthy}}
    ports: ["8080:80"]
    networks: [front, back]
    update: {order: start-first}
networks: {front: {}, back: {internal: true}}
volumes: {data: {protect: true}}
"#,
    )]);
    expect![[r#""#]].assert_eq(&brief(&stack));
}

#[test]
fn a_small_compose_file() {
    let stack = stack_of(&[(
        "docker-compose.yml",
        r#"
version: "3.8"
services:
  web:
    image: nginx:${TAG}
    ports: ["8080:80", "127.0.0.1:8443:443"]
    environment:
      - MODE=prod
      - TOKEN
      - UNSET
    volumes:
      - ./html:/usr/share/nginx/html:ro
      - ~/certs:/certs
      - cache:/var/cache
    restart: unless-stopped
    command: nginx -g 'daemon off;'
    healthcheck:
      test: curl -f http://localhost || exit 1
      interval: 1m30s
volumes:
  cache:
"#,
    )]);
    expect![[r#""#]].assert_eq(&brief(&stack));
}
