import React from 'react';
import { CommandIDs } from '../../commands';
import { buildOf } from '../../commands/runtimes';
import { CommandButton } from '../../components/button';
import { Log } from '../../components/log';
import type { IOperation, IRuntime, ISandboxStore } from '../../tokens';
import { age, bytes } from '../../words';
import type { IPanelContext } from '../section';

interface IProps {
  readonly store: ISandboxStore;
  readonly context: IPanelContext;
}

export function RuntimesBody({ store, context }: IProps): React.ReactElement {
  const { trans } = context;
  const { runtimes } = store;
  if (!runtimes) {
    return <p className="jp-VSandbox-empty">…</p>;
  }
  return (
    <ul className="jp-VSandbox-runtimes" aria-label={trans.__('Runtimes')}>
      {runtimes.runtimes.map(runtime => (
        <Runtime
          key={runtime.name}
          runtime={runtime}
          store={store}
          context={context}
        />
      ))}
      {runtimes.broken.map(({ path, message }) => (
        <li key={path} className="jp-VSandbox-broken">
          <strong>{path}</strong>
          <div>{message}</div>
        </li>
      ))}
    </ul>
  );
}

function Runtime(
  props: IProps & { readonly runtime: IRuntime }
): React.ReactElement {
  const { runtime, store, context } = props;
  const { commands, trans } = context;
  const { image, shape } = runtime;
  const build = buildOf(store.operations.values(), runtime.name);
  const failed = build ? null : lastFailure(store, runtime.name);
  return (
    <li>
      <div className="jp-VSandbox-runtimeTitle">
        <div className="jp-VSandbox-rowText" title={runtime.summary}>
          <div className="jp-VSandbox-rowName">
            <span>{runtime.display_name}</span>
            {runtime.own ? (
              <span className="jp-VSandbox-note">{trans.__('your own')}</span>
            ) : null}
          </div>
          <div className="jp-VSandbox-facts">
            {image
              ? trans.__(
                  'built %1 · %2',
                  age(image.created, trans),
                  bytes(image.size)
                )
              : trans.__('not built')}
            {' · '}
            {trans.__('%1 of memory', bytes(shape.memory))}
            {' · '}
            {trans._n('%1 core', '%1 cores', shape.vcpus)}
          </div>
        </div>
        {build ? (
          <CommandButton
            commands={commands}
            id={CommandIDs.cancelBuild}
            args={{ runtime: runtime.name }}
            label={trans.__('Cancel')}
            title={trans.__('Cancel the build of %1', runtime.display_name)}
          />
        ) : image ? null : (
          <CommandButton
            commands={commands}
            id={CommandIDs.build}
            args={{ runtime: runtime.name }}
            label={trans.__('Build')}
            title={trans.__('Build %1', runtime.display_name)}
          />
        )}
      </div>
      {build ? (
        <Progress operation={build} store={store} context={context} />
      ) : null}
      {failed ? (
        <>
          <p className="jp-VSandbox-warning">{failed.error?.message}</p>
          <Log
            label={trans.__('Log of the build')}
            lines={store.log(failed.id)}
          />
        </>
      ) : null}
    </li>
  );
}

function Progress(
  props: IProps & { readonly operation: IOperation }
): React.ReactElement {
  const { operation, store, context } = props;
  const { progress } = operation;
  const label = progress?.message ?? context.trans.__('building…');
  return (
    <div className="jp-VSandbox-build">
      <div className="jp-VSandbox-facts" role="status">
        {label}
      </div>
      <progress
        aria-label={context.trans.__('Build of %1', operation.runtime)}
        max={1}
        value={progress?.fraction ?? undefined}
      />
      <Log
        label={context.trans.__('Log of the build')}
        lines={store.log(operation.id)}
      />
    </div>
  );
}

/**
 * The latest build, where that failed.
 */
function lastFailure(store: ISandboxStore, runtime: string): IOperation | null {
  let last: IOperation | null = null;
  for (const each of store.operations.values()) {
    if (each.verb === 'build' && each.runtime === runtime) {
      last = each;
    }
  }
  return last?.state === 'failed' ? last : null;
}
