#compdef stack
# zsh completion of `stack`: asks the program itself what may stand at the cursor.
_stack() {
    local line files=0
    local -a candidates open
    for line in "${(@f)$("${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        if [[ $line == :files ]]; then
            files=1
        elif [[ -n $line ]]; then
            local value="${line%%$'\t'*}" about="${line#*$'\t'}"
            if [[ $value == *[:=] ]]; then
                open+=("$value")
            else
                candidates+=("${value//:/\\:}:$about")
            fi
        fi
    done
    (( ${#candidates} )) && _describe stack candidates
    (( ${#open} )) && compadd -S '' -a open
    (( files )) && _files
    return 0
}
if [[ $funcstack[1] == _stack ]]; then
    _stack "$@"
else
    compdef _stack stack
fi
