# bash completion of `stack`: asks the program itself what may stand at the cursor.
_stack() {
    local line current words
    COMPREPLY=()
    # bash takes `a:b` and `a=b` apart; the program wants words as they were typed.
    line="${COMP_LINE:0:COMP_POINT}"
    read -r -a words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current="${words[${#words[@]} - 1]}"
    local cut=""
    [[ $current == *[:=]* ]] && cut="${current%"${current##*[:=]}"}"
    local candidate
    while IFS= read -r candidate; do
        if [[ $candidate == ":files" ]]; then
            compopt -o filenames 2>/dev/null || true
            while IFS= read -r candidate; do COMPREPLY+=("$candidate"); done < <(compgen -f -- "${current#"$cut"}")
        else
            candidate="${candidate%%$'\t'*}"
            [[ $candidate == *[:=] ]] && { compopt -o nospace 2>/dev/null || true; }
            COMPREPLY+=("${candidate#"$cut"}")
        fi
    done < <("${words[0]}" complete -- "${words[@]:1}" 2>/dev/null)
}
complete -F _stack stack
