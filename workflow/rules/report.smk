# Tables and figures.


rule report:
    output:
        touch("results/report/x.txt")
